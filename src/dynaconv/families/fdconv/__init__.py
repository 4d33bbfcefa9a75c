"""Frequency dynamic convolution (FDConv): gains for groups of the kernel's frequencies, and gates along its axes."""

from dynaconv.families.fdconv.coefficients import FDConvCoefficients, fdconv_coefficients

__all__ = ["FDConvCoefficients", "fdconv_coefficients"]
