"""Whether a config fits a TPU, what it needs and what it will cost, before one is rented. Everything is an estimate."""
