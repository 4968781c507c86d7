"""Regression: numbers per example."""
