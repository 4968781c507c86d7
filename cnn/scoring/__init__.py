"""Metrics on the host, in NumPy: no data sets, no models, no JAX."""
