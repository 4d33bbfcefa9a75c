"""ODConv by applying its attentions to feature maps, without forming W(x)."""

import torch.nn.functional as F
from torch import Tensor

from dynaconv.families.odconv.attention import ODConvCoefficients
from dynaconv.ops.geometry import Geometry
from dynaconv.ops.mixture import mixed_mixture
from dynaconv.ops.shared import shared_conv2d


def mixed_odconv(x: Tensor, attention: ODConvCoefficients, kernels: Tensor, geometry: Geometry) -> Tensor:
    """As `kernel_odconv`, by one shared convolution whose input and output are scaled.

    The channel attention scales the input of the convolution. With several taps this input consists of patches, which
    the spatial attention scales too. The convolution gives the outputs of all K kernels, which are mixed and scaled by
    the filter attention. It takes K times the multiply-adds of the static convolution; with one 1x1 kernel, the
    convolution is the static one.
    """
    if attention.spatial is None:
        read, geometry_read, shared = x * attention.channel.to(x.dtype)[:, :, None, None], geometry, kernels
    else:
        read = _scaled_patches(x, attention.channel, attention.spatial, geometry)
        geometry_read, shared = Geometry((1, 1), groups=geometry.groups), kernels.flatten(2)[..., None, None]
    if attention.kernel is None:
        out = shared_conv2d(read, shared[0], geometry_read)
    else:
        out = mixed_mixture(read, attention.kernel, shared, geometry_read)
    return out if attention.filter is None else out * attention.filter.to(out.dtype)[:, :, None, None]


def _scaled_patches(x: Tensor, channel: Tensor, spatial: Tensor, geometry: Geometry) -> Tensor:
    """Return the scaled patches, ``(B, C_in * k_h * k_w, H_out, W_out)``, with adjacent taps of a channel."""
    out_h, out_w = geometry.output_size(x.shape[2], x.shape[3])
    kernel_size, stride, padding, dilation, _ = geometry
    patches = F.unfold(x, kernel_size, dilation, padding, stride)  # (B, C_in * k_h * k_w, H_out * W_out)
    scale = channel[:, :, None] * spatial.flatten(1)[:, None]  # (B, C_in, k_h * k_w)
    scaled = patches * scale.to(patches.dtype).flatten(1)[:, :, None]
    return scaled.reshape(x.shape[0], scaled.shape[1], out_h, out_w)
