"""Omni-dimensional dynamic convolution (ODConv): attention along every axis of a stack of kernels."""

from dynaconv.families.odconv.attention import ODConvCoefficients, odconv_attention
from dynaconv.families.odconv.cost import odconv_costs
from dynaconv.families.odconv.grouped import grouped_odconv
from dynaconv.families.odconv.kernel import kernel_odconv, odconv_kernel
from dynaconv.families.odconv.mixed import mixed_odconv
from dynaconv.families.odconv.reference import reference_odconv, reference_odconv_kernel

__all__ = [
    "ODConvCoefficients",
    "grouped_odconv",
    "kernel_odconv",
    "mixed_odconv",
    "odconv_attention",
    "odconv_costs",
    "odconv_kernel",
    "reference_odconv",
    "reference_odconv_kernel",
]
