"""Kernel mixture that forms each sample's kernel and applies it by matrix products."""

import torch
from torch import Tensor

from dynaconv.ops.geometry import Geometry
from dynaconv.ops.per_sample import matmul_per_sample
from dynaconv.ops.precision import full_precision


def kernel_mixture(x: Tensor, attention: Tensor, kernels: Tensor, geometry: Geometry) -> Tensor:
    """Form W(x) of each sample and multiply it by the sample's patches, in one batched product.

    Args:
        x: Input, ``(B, C_in, *sizes)``.
        attention: Weights of the kernels, ``(B, K)``.
        kernels: ``(K, C_out, C_in / groups, *k)``, also for a transposed convolution.
        geometry: Stride, padding, dilation and groups.

    Returns:
        ``(B, C_out, *out_sizes)``, without a bias.
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
    # Flatten kernels of another memory format, such as channels_last, in their memory order; in the order of their
    # axes, all K kernels would be copied.
    order = _memory_order(kernels)
    rows = kernels if order is None else kernels.permute(order)
    with full_precision(kernels.device):
        mixed = torch.matmul(attention.to(kernels.dtype), rows.flatten(1))
    mixed = mixed.reshape(attention.shape[0], *rows.shape[1:])
    return mixed if order is None else mixed.permute([order.index(axis) for axis in range(len(order))])


def _memory_order(kernels: Tensor) -> list[int] | None:
    """Return the axes of a dense tensor in the order in which memory holds them; None for the order of the axes."""
    if kernels.is_contiguous():
        return None
    order = sorted(range(kernels.dim()), key=kernels.stride().__getitem__, reverse=True)
    return order if order[0] == 0 and kernels.permute(order).is_contiguous() else None
