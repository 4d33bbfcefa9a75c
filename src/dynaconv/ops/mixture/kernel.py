"""Kernel mixture that forms each sample's kernel and applies it by matrix products."""

import torch
from torch import Tensor

from dynaconv.ops.geometry import Geometry
from dynaconv.ops.per_sample import matmul_per_sample
from dynaconv.ops.precision import full_precision

_CHANNELS_LAST = (0, 1, 3, 4, 2)
_CHANNELS_FIRST = (0, 1, 4, 2, 3)


def kernel_mixture(x: Tensor, attention: Tensor, kernels: Tensor, geometry: Geometry) -> Tensor:
    """Form W(x) of each sample and multiply it by the sample's patches, in one batched product.

    Args:
        x: Input, ``(B, C_in, H, W)``.
        attention: Weights of the kernels, ``(B, K)``.
        kernels: ``(K, C_out, C_in / groups, k_h, k_w)``.
        geometry: Stride, padding, dilation and groups.

    Returns:
        ``(B, C_out, H_out, W_out)``, without a bias.
    """
    return matmul_per_sample(x, mix_kernels(attention, kernels), geometry)


def mix_kernels(attention: Tensor, kernels: Tensor) -> Tensor:
    """Sum K kernels, or K biases, with the weights of each sample.

    Args:
        attention: ``(B, K)``.
        kernels: ``(K, ...)``.

    Returns:
        ``(B, ...)`` in the dtype of ``kernels``, also under autocast: the sum costs little compared to the convolution.
    """
    rows = kernels
    permuted = not kernels.is_contiguous() and kernels.dim() == 5
    if taps_before_channels := permuted and kernels.permute(_CHANNELS_LAST).is_contiguous():
        # Flatten channels_last kernels in their memory order; in the default order, all K kernels would be copied.
        rows = kernels.permute(_CHANNELS_LAST)
    with full_precision(kernels.device):
        mixed = torch.matmul(attention.to(kernels.dtype), rows.flatten(1))
    mixed = mixed.reshape(attention.shape[0], *rows.shape[1:])
    return mixed.permute(_CHANNELS_FIRST) if taps_before_channels else mixed
