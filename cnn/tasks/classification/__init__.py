"""Classification: one class per example."""
