"""ODConv by applying its attentions to feature maps, without forming W(x)."""

from torch import Tensor

from dynaconv.families.odconv.attention import ODConvCoefficients
from dynaconv.ops.geometry import Geometry, over_pixels
from dynaconv.ops.mixture import mixed_mixture
from dynaconv.ops.per_sample import unfold_patches
from dynaconv.ops.shared import shared_conv


def mixed_odconv(x: Tensor, attention: ODConvCoefficients, kernels: Tensor, geometry: Geometry) -> Tensor:
    """As `kernel_odconv`, by one shared convolution whose input and output are scaled.

    The channel attention scales the input of the convolution. With several taps this input consists of patches, which
    the spatial attention scales too. The convolution gives the outputs of all K kernels, which are mixed and scaled by
    the filter attention. It takes K times the multiply-adds of the static convolution; with one 1x1 kernel, the
    convolution is the static one.
    """
    dims = geometry.dims
    if attention.spatial is None:
        read, geometry_read, shared = x * over_pixels(attention.channel.to(x.dtype), dims), geometry, kernels
    else:
        read = _scaled_patches(x, attention.channel, attention.spatial, geometry)
        geometry_read, shared = Geometry.point(dims, groups=geometry.groups), over_pixels(kernels.flatten(2), dims)
    if attention.kernel is None:
        out = shared_conv(read, shared[0], geometry_read)
    else:
        out = mixed_mixture(read, attention.kernel, shared, geometry_read)
    return out if attention.filter is None else out * over_pixels(attention.filter.to(out.dtype), dims)


def _scaled_patches(x: Tensor, channel: Tensor, spatial: Tensor, geometry: Geometry) -> Tensor:
    """Return the scaled patches, ``(B, C_in * num_taps, *out_sizes)``, with adjacent taps of a channel."""
    scale = channel[:, :, None] * spatial.flatten(1)[:, None]  # (B, C_in, num_taps)
    patches = unfold_patches(x, geometry)
    return patches * over_pixels(scale.to(patches.dtype).flatten(1), geometry.dims)
