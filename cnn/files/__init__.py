"""Readers of files, one module per kind: path or bytes -> arrays."""
