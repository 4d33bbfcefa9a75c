"""Squeeze-and-excitation by forming the kernel of each sample, which requires the output of the convolution."""

from torch import Tensor

from dynaconv.families.se.factored import Excite
from dynaconv.ops.geometry import Geometry
from dynaconv.ops.per_sample import per_sample_conv2d
from dynaconv.ops.shared import shared_conv2d


def kernel_squeeze_excite(x: Tensor, weight: Tensor, bias: Tensor | None, excite: Excite, geometry: Geometry) -> Tensor:
    """As `factored_squeeze_excite`, by a second convolution with W(x) = diag(s) W.

    It shows that the layer is a dynamic convolution. Scaling the output, which is computed already, is always cheaper.
    """
    scale = excite(shared_conv2d(x, weight, geometry, bias))
    out = per_sample_conv2d(x, scale_rows(scale, weight), geometry)
    return out if bias is None else out + scale_rows(scale, bias).to(out.dtype)[:, :, None, None]


def scale_rows(scale: Tensor, static: Tensor) -> Tensor:
    """Return diag(s) W of each sample, or s * b for a bias.

    Args:
        scale: ``(B, C_out)``.
        static: ``(C_out, ...)``.

    Returns:
        ``(B, C_out, ...)`` in the dtype of ``static``.
    """
    return (scale.reshape(*scale.shape, *(1,) * (static.dim() - 1)) * static).to(static.dtype)
