"""ODConv by forming the kernel of each sample and applying it by matrix products."""

from torch import Tensor

from dynaconv.families.odconv.attention import ODConvCoefficients
from dynaconv.ops.geometry import Geometry, over_pixels
from dynaconv.ops.mixture import mix_kernels
from dynaconv.ops.per_sample import matmul_per_sample


def kernel_odconv(x: Tensor, attention: ODConvCoefficients, kernels: Tensor, geometry: Geometry) -> Tensor:
    """Form W(x) of each sample and multiply it by the sample's patches, in one batched product.

    Args:
        x: Input, ``(B, C_in, *sizes)``.
        attention: The four attentions.
        kernels: ``(K, C_out, C_in / groups, *k)``.
        geometry: Stride, padding, dilation and groups.

    Returns:
        ``(B, C_out, *out_sizes)``, without a bias.
    """
    return matmul_per_sample(x, odconv_kernel(attention, kernels, geometry.groups), geometry)


def odconv_kernel(attention: ODConvCoefficients, kernels: Tensor, groups: int) -> Tensor:
    """Return W(x) of each sample: the kernels summed with their attention, then scaled along each axis.

    Args:
        attention: The four attentions.
        kernels: ``(K, C_out, C_in / groups, *k)``.
        groups: Groups of the convolution.

    Returns:
        ``(B, C_out, C_in / groups, *k)`` in the dtype of ``kernels``.
    """
    mixed = kernels if attention.kernel is None else mix_kernels(attention.kernel, kernels)
    scale = _channel_of_each_output(attention.channel, kernels.shape[1], groups)
    if attention.filter is not None:
        scale = attention.filter[:, :, None] * scale
    kernel = mixed * over_pixels(scale.to(kernels.dtype), kernels.dim() - 3)
    if attention.spatial is None:
        return kernel
    return kernel * attention.spatial.to(kernels.dtype)[:, None, None]


def _channel_of_each_output(channel: Tensor, out_channels: int, groups: int) -> Tensor:
    """Return the attention over the input channels of each output, ``(B, C_out, C_in / groups)``.

    With one group it is the same for all outputs, and the shape is ``(B, 1, C_in)``.
    """
    if groups == 1:
        return channel[:, None]
    by_group = channel.reshape(channel.shape[0], groups, channel.shape[1] // groups)
    return by_group.repeat_interleave(out_channels // groups, dim=1)
