"""Weights from elsewhere: foreign checkpoint files -> our variables, with a layer diff."""
