"""Sequence labelling: one class for every step of a series."""
