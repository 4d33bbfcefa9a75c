"""Kernel mixture in training by compiled operators; of several taps, they form W(x) one sample at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dynaconv.ops.eager import compiled_is_enabled, trains_eagerly
from dynaconv.ops.geometry import Geometry
from dynaconv.ops.mixture.attentions import Attentions, second_gradients
from dynaconv.ops.mixture.compiled_patches import has_few_pixels, patches_mixture
from dynaconv.ops.mixture.compiled_point import compiled_point_mixture
from dynaconv.ops.mixture.operands import operator_coefficients, operator_sizes
from dynaconv.ops.packing import dense_weight, unpacked

_MAX_BYTES = 3 << 19
"""Size of the largest kernels that are mixed in the cache: larger ones are read too often, sample by sample
(`benchmarks/training.py --accelerate` with resnet10 and resnet18)."""


def supports_compiled(x: Tensor, coefficients: Sequence[Tensor | None], kernels: Tensor, geometry: Geometry) -> bool:
    """Whether this is a dense 2-D convolution, trained eagerly in float32 on the CPU, while the operators are enabled.

    Kernels with several taps have to be small, or images channels_last.
    """
    return (
        compiled_is_enabled()
        and geometry.dense_2d
        and x.numel() > 0
        and trains_eagerly((x, kernels, *(part for part in coefficients if part is not None)), torch.float32)
        and (
            not any(geometry.padding)
            if geometry.pointwise
            else _is_small(kernels) or x.is_contiguous(memory_format=torch.channels_last)
        )
    )


def _is_small(kernels: Tensor) -> bool:
    return kernels.numel() * kernels.element_size() <= _MAX_BYTES


def compiled_mixture(x: Tensor, attentions: Attentions, kernels: Tensor, geometry: Geometry) -> Tensor:
    """Convolve each sample with its mixture of kernels, if `supports_compiled` holds.

    With several taps, W(x) and its gradient exist for a few samples at a time, in the processor's cache. The backward
    pass forms W(x) again from the arguments, and keeps nothing else. For 1x1 kernels see `compiled_point_mixture`, for
    few pixels and large kernels `patches_mixture`.

    Args:
        x: Input, ``(B, C_in, H, W)``; contiguous or channels_last, it is read without a copy.
        attentions: Coefficients of the samples.
        kernels: ``(K, C_out, C_in, k_h, k_w)``.
        geometry: Stride, padding and dilation.

    Returns:
        ``(B, C_out, H_out, W_out)`` in the memory format of ``x``.
    """
    if geometry.pointwise:
        rows, columns = geometry.stride
        read = x if rows == columns == 1 else x[:, :, ::rows, ::columns]
        return compiled_point_mixture(read, attentions, kernels)
    if x.is_contiguous(memory_format=torch.channels_last) and (
        has_few_pixels(x, kernels, geometry) or not _is_small(kernels)
    ):
        return patches_mixture(x, attentions, kernels, geometry)
    out: Tensor = _CompiledMixture.apply(x, kernels, geometry, *attentions)
    return out


class _CompiledMixture(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernels: Tensor, geometry: Geometry, *attentions: Tensor | None) -> Tensor:
        ctx.geometry = geometry
        ctx.save_for_backward(x, kernels, *attentions)
        sizes = (x.shape[0], kernels.shape[1], *geometry.output_size(*x.shape[2:]))
        layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        out = torch.empty(sizes, dtype=x.dtype, memory_format=layout)
        coefficients = operator_coefficients(attentions, kernels)
        result: Tensor = torch.ops.dynaconv.mixture_conv(
            x, dense_weight(kernels), coefficients, out, operator_sizes(geometry)
        )
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, kernels, *attentions = ctx.saved_tensors
        geometry, for_x = ctx.geometry, ctx.needs_input_grad[0]
        if torch.is_grad_enabled():
            to_x, to_kernels, *rest = second_gradients(x, kernels, geometry, attentions, gradient)
            return to_x, to_kernels, None, *rest
        coefficients = operator_coefficients(attentions, kernels)
        panels, to_x = dense_weight(kernels), torch.empty_like(x) if for_x else x.new_empty(0)
        transposed = _pack_transposed(kernels, geometry) if for_x else x.new_empty(0)
        to_panels, to_coefficients = torch.empty_like(panels), [torch.empty_like(part) for part in coefficients]
        torch.ops.dynaconv.mixture_conv_gradients(
            x, panels, transposed, coefficients, gradient, to_x, to_panels, to_coefficients, operator_sizes(geometry)
        )
        to_attentions = (
            None if part is None else to[:, : part.shape[1]]
            for to, part in zip(to_coefficients, attentions, strict=True)
        )
        return to_x if for_x else None, unpacked(to_panels, kernels), None, *to_attentions


def _pack_transposed(kernels: Tensor, geometry: Geometry) -> Tensor:
    """Return panels of input channels, for the taps of each phase of the stride after one another."""
    swapped = kernels.transpose(1, 2)
    if set(geometry.stride) == {1}:
        return dense_weight(swapped)
    taps: dict[tuple[int, ...], list[int]] = {}
    for number, tap in enumerate(geometry.taps):
        steps = zip(tap, geometry.dilation, geometry.stride, strict=True)
        taps.setdefault(tuple(at * spacing % step for at, spacing, step in steps), []).append(number)
    flat = swapped.flatten(3)
    return torch.cat([dense_weight(flat[..., taps[phase]].unsqueeze(-1)) for phase in sorted(taps)])
