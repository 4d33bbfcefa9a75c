"""Squeeze-and-excitation by forming the kernel of each sample, which requires the output of the convolution."""

from torch import Tensor

from dynaconv.families.se.factored import Excite
from dynaconv.ops.geometry import Geometry, over_pixels
from dynaconv.ops.per_sample import per_sample_conv
from dynaconv.ops.shared import shared_conv


def kernel_squeeze_excite(x: Tensor, weight: Tensor, bias: Tensor | None, excite: Excite, geometry: Geometry) -> Tensor:
    """As `factored_squeeze_excite`, by a second convolution with W(x) = diag(s) W.

    It shows that the layer is a dynamic convolution. Scaling the output, which is computed already, is always cheaper.
    """
    scale = excite(shared_conv(x, weight, geometry, bias))
    out = per_sample_conv(x, scale_rows(scale, weight), geometry)
    return out if bias is None else out + over_pixels(scale_rows(scale, bias).to(out.dtype), geometry.dims)


def scale_rows(scale: Tensor, static: Tensor) -> Tensor:
    """Return diag(s) W of each sample, or s * b for a bias.

    Args:
        scale: ``(B, C_out)``.
        static: ``(C_out, ...)``.

    Returns:
        ``(B, C_out, ...)`` in the dtype of ``static``.
    """
    return (over_pixels(scale, static.dim() - 1) * static).to(static.dtype)
