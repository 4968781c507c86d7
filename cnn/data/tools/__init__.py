"""What `cnn data` does: check, find leaks, plan, draw."""
