"""Convolutional networks whose kernels depend on the input."""

__version__ = "0.1.0"
