"""Segmentation: one class for every pixel or voxel."""
