"""CondConv: a sum of kernels with independent sigmoid weights (arXiv:1904.04971)."""

from dynaconv.families.condconv.reference import reference_condconv, reference_condconv_kernel

__all__ = ["reference_condconv", "reference_condconv_kernel"]
