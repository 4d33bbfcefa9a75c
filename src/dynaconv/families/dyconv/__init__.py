"""Vanilla dynamic convolution (DY-Conv): a sum of kernels with softmax weights (arXiv:1912.03458)."""

from dynaconv.families.dyconv.reference import reference_dyconv, reference_dyconv_kernel

__all__ = ["reference_dyconv", "reference_dyconv_kernel"]
