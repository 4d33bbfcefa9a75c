"""Squeeze-and-excitation by scaling the output, without forming W(x)."""

from collections.abc import Callable

from torch import Tensor

from dynaconv.ops.geometry import Geometry, over_pixels
from dynaconv.ops.shared import shared_conv

Excite = Callable[[Tensor], Tensor]
"""Maps the output of the convolution, including the bias, ``(B, C_out, *out_sizes)``, to the scales ``(B, C_out)``."""


def factored_squeeze_excite(
    x: Tensor, weight: Tensor, bias: Tensor | None, excite: Excite, geometry: Geometry
) -> Tensor:
    """As `reference_squeeze_excite`: convolve, then scale the channels of the output.

    Args:
        x: Input, ``(B, C_in, *sizes)``.
        weight: Static kernel, ``(C_out, C_in / groups, *k)``.
        bias: ``(C_out,)`` or None.
        excite: Computes the scales from the convolution's output.
        geometry: Stride, padding, dilation and groups.

    Returns:
        ``(B, C_out, *out_sizes)``, including the scaled bias.
    """
    out = shared_conv(x, weight, geometry, bias)
    return out * over_pixels(excite(out).to(out.dtype), geometry.dims)
