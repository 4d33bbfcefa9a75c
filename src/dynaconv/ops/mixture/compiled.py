"""Kernel mixture in training by compiled operators, which form W(x) one sample at a time."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dynaconv.ops.eager import differentiable_gradients, trains_eagerly
from dynaconv.ops.geometry import Geometry, over_pixels
from dynaconv.ops.mixture.kernel import mix_kernels
from dynaconv.ops.packing import dense_weight, panel_width, unpacked
from dynaconv.ops.per_sample import per_sample_conv

_MAX_BYTES = 3 << 19
"""Size of the largest kernels that the operators take: larger ones are read too often, sample by sample
(`benchmarks/training.py --accelerate` with resnet10 and resnet18)."""

_enabled = False


def enable_compiled(enabled: bool) -> None:
    """Let `supports_compiled` hold. The native library must be loaded, because it registers the operators."""
    global _enabled
    _enabled = enabled


def compiled_is_enabled() -> bool:
    """Return whether layers train by compiled operators where there are some."""
    return _enabled


def supports_compiled(x: Tensor, coefficients: Sequence[Tensor | None], kernels: Tensor, geometry: Geometry) -> bool:
    """Whether this is a dense 2-D convolution with several taps and small kernels, trained eagerly in float32.

    On the CPU, and only while the operators are enabled.
    """
    return (
        _enabled
        and geometry.dims == 2
        and geometry.groups == 1
        and not geometry.transposed
        and not geometry.pointwise
        and kernels.numel() * kernels.element_size() <= _MAX_BYTES
        and x.numel() > 0
        and trains_eagerly((x, kernels, *(part for part in coefficients if part is not None)), torch.float32)
    )


class Attentions(NamedTuple):
    """Coefficients of W(x)[o, i, t] = filter_o channel_i spatial_t sum_k kernel_k W_k[o, i, t], each ``(B, N)``."""

    kernel: Tensor
    channel: Tensor | None = None
    spatial: Tensor | None = None
    filter: Tensor | None = None


def compiled_mixture(x: Tensor, attentions: Attentions, kernels: Tensor, geometry: Geometry) -> Tensor:
    """Convolve each sample with its mixture of kernels, if `supports_compiled` holds.

    W(x) and its gradient exist for one sample at a time, in the processor's cache. The backward pass forms W(x) again
    from the arguments, and keeps nothing else.

    Args:
        x: Input, ``(B, C_in, H, W)``; contiguous or channels_last, it is read without a copy.
        attentions: Coefficients of the samples.
        kernels: ``(K, C_out, C_in, k_h, k_w)``.
        geometry: Stride, padding and dilation.

    Returns:
        ``(B, C_out, H_out, W_out)`` in the memory format of ``x``.
    """
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
        coefficients = _coefficients(attentions, kernels)
        result: Tensor = torch.ops.dynaconv.mixture_conv(x, dense_weight(kernels), coefficients, out, _sizes(geometry))
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, kernels, *attentions = ctx.saved_tensors
        geometry, for_x = ctx.geometry, ctx.needs_input_grad[0]
        if torch.is_grad_enabled():
            return _second_gradients(x, kernels, geometry, attentions, gradient)
        coefficients = _coefficients(attentions, kernels)
        panels, to_x = dense_weight(kernels), torch.empty_like(x) if for_x else x.new_empty(0)
        transposed = _pack_transposed(kernels, geometry) if for_x else x.new_empty(0)
        to_panels, to_coefficients = torch.empty_like(panels), [torch.empty_like(part) for part in coefficients]
        torch.ops.dynaconv.mixture_conv_gradients(
            x, panels, transposed, coefficients, gradient, to_x, to_panels, to_coefficients, _sizes(geometry)
        )
        to_attentions = (
            None if part is None else to[:, : part.shape[1]]
            for to, part in zip(to_coefficients, attentions, strict=True)
        )
        return to_x if for_x else None, unpacked(to_panels, kernels), None, *to_attentions


def _second_gradients(
    x: Tensor, kernels: Tensor, geometry: Geometry, attentions: Sequence[Tensor | None], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """Return differentiable gradients of the arguments of `_CompiledMixture`."""

    given = [part is not None for part in attentions]

    def run(x: Tensor, kernels: Tensor, *parts: Tensor) -> Tensor:
        return plain_mixture(x, Attentions(*_placed(given, parts)), kernels, geometry)  # type: ignore[arg-type]

    inputs = (x, kernels, *(part for part in attentions if part is not None))
    to_x, to_kernels, *rest = differentiable_gradients(run, inputs, gradient)
    return to_x, to_kernels, None, *_placed(given, rest)


def _placed(given: Sequence[bool], parts: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return the parts at the places where one is given, and None elsewhere."""
    rest = iter(parts)
    return [next(rest) if each else None for each in given]


def _sizes(geometry: Geometry) -> list[int]:
    return [*geometry.kernel_size, *geometry.stride, *geometry.padding, *geometry.dilation]


def _coefficients(attentions: Sequence[Tensor | None], kernels: Tensor) -> list[Tensor]:
    """Return the operators' coefficients: those of channels as long as their panels, an empty tensor for None."""
    kernel, channel, spatial, filters = attentions
    lengths = (len(kernels), panel_width(kernels.shape[2]), math.prod(kernels.shape[3:]), panel_width(kernels.shape[1]))
    return [
        kernels.new_empty(0) if part is None else F.pad(part, (0, length - part.shape[1])).contiguous()
        for part, length in zip((kernel, channel, spatial, filters), lengths, strict=True)
    ]


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


def plain_mixture(x: Tensor, attentions: Attentions, kernels: Tensor, geometry: Geometry) -> Tensor:
    """As `compiled_mixture`, by plain operators."""
    kernel = mix_kernels(attentions.kernel, kernels)
    if attentions.channel is not None:
        kernel = kernel * over_pixels(attentions.channel[:, None], 2)
    if attentions.spatial is not None:
        kernel = kernel * attentions.spatial.reshape(len(x), 1, 1, *geometry.kernel_size)
    out = per_sample_conv(x, kernel, geometry)
    return out if attentions.filter is None else out * over_pixels(attentions.filter, 2)
