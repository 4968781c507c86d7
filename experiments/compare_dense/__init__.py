"""What a convolutional network has over a dense one: the textbook's claims, measured."""
