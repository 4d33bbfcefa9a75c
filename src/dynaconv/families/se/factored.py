"""Squeeze-and-excitation by scaling the output, without forming W(x)."""

from collections.abc import Callable

from torch import Tensor

from dynaconv.ops.geometry import Geometry
from dynaconv.ops.shared import shared_conv2d

Excite = Callable[[Tensor], Tensor]
"""Maps the output of the convolution, including the bias, ``(B, C_out, H, W)``, to the scales ``(B, C_out)``."""


def factored_squeeze_excite(
    x: Tensor, weight: Tensor, bias: Tensor | None, excite: Excite, geometry: Geometry
) -> Tensor:
    """As `reference_squeeze_excite`: convolve, then scale the channels of the output.

    Args:
        x: Input, ``(B, C_in, H, W)``.
        weight: Static kernel, ``(C_out, C_in / groups, k_h, k_w)``.
        bias: ``(C_out,)`` or None.
        excite: Computes the scales from the convolution's output.
        geometry: Stride, padding, dilation and groups.

    Returns:
        ``(B, C_out, H_out, W_out)``, including the scaled bias.
    """
    out = shared_conv2d(x, weight, geometry, bias)
    return out * excite(out).to(out.dtype)[:, :, None, None]
