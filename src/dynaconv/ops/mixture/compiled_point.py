"""Mixture of 1x1 kernels in training, where compiled operators form W(x), and sum up its gradient, in one pass each."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dynaconv.ops.eager import not_a_view
from dynaconv.ops.geometry import Geometry
from dynaconv.ops.mixture.attentions import Attentions, second_gradients
from dynaconv.ops.per_sample import grouped_matmul, outer_per_sample, times_transposed

_POINT = Geometry((1, 1))


def compiled_point_mixture(x: Tensor, attentions: Attentions, kernels: Tensor) -> Tensor:
    """Multiply each sample by its mixture of 1x1 kernels; the native library must be loaded.

    W(x) is kept for the backward pass: in a large network forming it again takes 1 % of a training step.

    Args:
        x: Input, ``(B, C_in, H, W)``.
        attentions: Coefficients of the samples.
        kernels: ``(K, C_out, C_in, 1, 1)``.

    Returns:
        ``(B, C_out, H, W)`` in the memory format of ``x``.
    """
    kernel, channel, spatial, filters = attentions
    if spatial is not None:
        kernel = kernel * spatial
    # The operators take both or none.
    if channel is None and filters is not None:
        channel = x.new_ones(len(x), kernels.shape[2])
    if filters is None and channel is not None:
        filters = x.new_ones(len(x), kernels.shape[1])
    out: Tensor = _CompiledPointMixture.apply(x, kernels, kernel, channel, filters)
    return out


class _CompiledPointMixture(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernels: Tensor, *coefficients: Tensor | None) -> Tensor:
        kernel = _formed(*_operands(kernels, coefficients))
        ctx.save_for_backward(x, kernels, *coefficients, kernel)
        return not_a_view(grouped_matmul(kernel, x))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, kernels, *coefficients, formed = ctx.saved_tensors
        if torch.is_grad_enabled():
            kernel, channel, filters = coefficients
            attentions = Attentions(kernel, channel, None, filters)
            to_x, to_kernels, to_kernel, to_channel, _, to_filter = second_gradients(
                x, kernels, _POINT, attentions, gradient
            )
            return to_x, to_kernels, to_kernel, to_channel, to_filter
        operands = _operands(kernels, coefficients)
        found = [torch.empty_like(part) for part in (operands[0], *operands[1])]
        torch.ops.dynaconv.kernel_mix_gradients(*operands, outer_per_sample(gradient, x), found)
        to_x = times_transposed(formed, gradient, x) if ctx.needs_input_grad[0] else None
        to_kernels, *rest = found
        given = (None if part is None else to for to, part in zip(rest, coefficients, strict=True))
        return to_x, to_kernels.view(kernels.shape), *given


def _operands(kernels: Tensor, coefficients: Sequence[Tensor | None]) -> tuple[Tensor, list[Tensor]]:
    """Return the arguments of the operators, an empty tensor for None."""
    none = kernels.new_empty(0)
    return kernels.flatten(2).contiguous(), [none if part is None else part.contiguous() for part in coefficients]


def _formed(kernels: Tensor, coefficients: list[Tensor]) -> Tensor:
    """Return W(x), ``(B, C_out, C_in)``."""
    out = kernels.new_empty(len(coefficients[0]), *kernels.shape[1:])
    result: Tensor = torch.ops.dynaconv.kernel_mix(kernels, coefficients, out)
    return result
