"""A whole DCD layer in training, context and branch included, by compiled operators."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.families.contract.branch import bounded_rows, inverse_length
from dynaconv.families.contract.norms import LatentBatchNorm2d
from dynaconv.families.dcd.factored_step import conv_gradients, plain_factored_step
from dynaconv.families.dcd.factors import activate_scale, inverse_lengths
from dynaconv.ops.context import pool_context
from dynaconv.ops.eager import differentiable_gradients, trains_eagerly
from dynaconv.ops.geometry import Geometry
from dynaconv.ops.packing import panel_width
from dynaconv.ops.per_sample import grouped_matmul, outer_per_sample, times_transposed
from dynaconv.ops.shared import static_conv

_LANES = 8
"""The operators take a multiple of this many channels."""


class StepSettings(NamedTuple):
    """The options of a layer that the operators read."""

    geometry: Geometry
    branch: tuple[float, float, float]
    """The branch's gain, and the bounds of the heads for Lambda and Phi."""
    norm: LatentBatchNorm2d | None
    """The norm of the context, if that is the average of the input; None if the context is given."""
    forms_kernel: bool
    """Whether W(x) is formed; else its factors are applied."""


def supports_compiled_step(x: Tensor, tensors: Sequence[Tensor], geometry: Geometry) -> bool:
    """Whether the operators serve this input of a layer with the default branch; ``tensors`` begin with W0."""
    return (
        geometry.dense_2d
        and len(tensors[0]) % _LANES == 0
        and x.shape[1] % _LANES == 0
        and x.numel() > 0
        and trains_eagerly((x, *tensors), torch.float32)
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def averages_context(norm: nn.Module | None, batch: int) -> bool:
    """Whether the operators compute a context with this norm themselves: by the statistics of a batch of several."""
    return (
        type(norm) is LatentBatchNorm2d
        and norm.training
        and norm.momentum is not None
        and norm.running_mean is not None
        and norm.running_mean.dtype == torch.float32
        and batch > 1
    )


def compiled_step_dcd(
    x: Tensor, context: Tensor | None, parameters: Sequence[Tensor], settings: StepSettings
) -> Tensor:
    """Return W(x) x, ``(B, C_out, H_out, W_out)``, if `supports_compiled_step` holds.

    Args:
        x: Input, ``(B, C_in, H, W)``, channels_last.
        context: The normalised context, ``(B, F)``; None for the average of ``x``, if `averages_context` holds.
        parameters: W0, the branch's first map ``(H, F)``, its heads for Lambda ``(C_out, H)`` and Phi
            ``(L * L, H)``, P and Q.
        settings: Geometry and branch.
    """
    assert (context is None) == (settings.norm is not None)
    out: Tensor = _CompiledStep.apply(x, context, *parameters, settings)
    if settings.norm is not None and settings.norm.num_batches_tracked is not None:
        settings.norm.num_batches_tracked.add_(1)
    return out


class _CompiledStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, context: Tensor | None, weight: Tensor, *arguments: Any) -> Tensor:
        *branch, settings = arguments
        p, q = branch[-2:]
        batch, (out_channels, latent_dim), hidden = len(x), p.shape, len(branch[0])
        geometry: Geometry = settings.geometry
        none = x.new_empty(0)
        size = geometry.output_size(*x.shape[2:])
        latent = none if settings.forms_kernel else x.new_empty(batch, *size, latent_dim)
        used, inverse = none if context is None else context.contiguous(), none
        average, running, constants = none, [none, none], [0.0, 0.0]
        if settings.norm is not None:
            norm = settings.norm
            average = used = x.new_empty(x.shape[:2])
            inverse = x.new_empty(x.shape[1])
            running, constants = [norm.running_mean, norm.running_var], [norm.momentum, norm.eps]
        operators: Any = torch.ops.dynaconv
        if settings.norm is not None or not settings.forms_kernel:
            operators.dcd_input(
                x, q.contiguous(), running, constants, _sizes(geometry, x), [average, inverse, latent]
            )
        scale, mix = x.new_empty(batch, out_channels), x.new_empty(batch, out_channels * latent_dim)
        saved = x.new_empty(batch * (2 * hidden + 1 + out_channels + latent_dim**2))
        operators.dcd_branch(_inputs(used, branch), settings.branch, [scale, mix, saved])
        fixed = none
        if settings.forms_kernel:
            out = grouped_matmul(_kernel(weight, q, scale, mix), x)
        else:
            fixed = static_conv(x, weight, geometry).contiguous(memory_format=torch.channels_last)
            out = torch.empty(fixed.shape, dtype=x.dtype, memory_format=torch.channels_last)
            operators.dcd_sum(fixed, latent, scale, mix, out)
        ctx.settings = settings
        ctx.save_for_backward(x, context, weight, *branch, average, inverse, latent, scale, mix, saved, fixed)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, context, weight, *branch, average, inverse, latent, scale, mix, saved, fixed = ctx.saved_tensors
        settings, for_x = ctx.settings, ctx.needs_input_grad[0]
        if torch.is_grad_enabled():
            return *_second_gradients(settings, x, context, weight, branch, gradient), None
        geometry: Geometry = settings.geometry
        operators: Any = torch.ops.dynaconv
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        q = branch[-1].contiguous()
        to_scale, to_mix, none = torch.empty_like(scale), torch.empty_like(mix), x.new_empty(0)
        to_latent, to_kernel_q = none, None
        if settings.forms_kernel:
            matrix = weight.flatten(1).contiguous()
            to_weight, to_kernel_q = torch.empty_like(matrix), torch.empty_like(q)
            operators.dcd_kernel_gradients(
                matrix, q, scale, mix, outer_per_sample(gradient, x), [to_weight, to_kernel_q, to_scale, to_mix]
            )
            to_weight = to_weight.view(weight.shape)
            to_x = times_transposed(_kernel(weight, q, scale, mix), gradient, x) if for_x else none
        else:
            to_fixed = torch.empty_like(fixed)
            to_latent = x.new_empty(*latent.shape[:3], panel_width(latent.shape[3]))
            operators.dcd_sum_gradients(
                fixed, latent, scale, mix, gradient, [to_fixed, to_latent, to_scale, to_mix]
            )
            to_x, to_weight = conv_gradients(to_fixed, x, weight, geometry, for_x)
        to_x = to_x.contiguous(memory_format=torch.channels_last) if for_x else none
        used = _inputs(average if context is None else context, branch)
        to_used = [torch.empty_like(part) for part in used]
        operators.dcd_branch_gradients(used, settings.branch, saved, to_scale, to_mix, to_used)
        to_context, *to_branch = to_used
        to_q = to_branch[-1]
        if to_kernel_q is not None:
            to_q += to_kernel_q
        to_average = to_context if context is None and for_x else none
        if to_latent.numel() or to_average.numel():
            sizes = _sizes(geometry, x)
            operators.dcd_input_gradients(x, q, sizes, average, inverse, to_average, to_latent, to_x, to_q)
        return to_x if for_x else None, None if context is None else to_context, to_weight, *to_branch, None


def _sizes(geometry: Geometry, x: Tensor) -> list[int]:
    """Return the stride, the first pixel of the centre tap and the size of the output."""
    offsets = (d * c - p for d, c, p in zip(geometry.dilation, geometry.centre, geometry.padding, strict=True))
    return [*geometry.stride, *offsets, *geometry.output_size(*x.shape[2:])]


def _inputs(context: Tensor, branch: Sequence[Tensor]) -> list[Tensor]:
    return [part.contiguous() for part in (context, *branch)]


def _kernel(weight: Tensor, q: Tensor, scale: Tensor, mix: Tensor) -> Tensor:
    """Return W(x), ``(B, C_out, C_in)``."""
    matrix = weight.flatten(1).contiguous()
    kernel = matrix.new_empty(len(scale), *matrix.shape)
    out: Tensor = torch.ops.dynaconv.dcd_kernel(matrix, q.contiguous(), scale, mix, kernel)
    return out


def _second_gradients(
    settings: StepSettings,
    x: Tensor,
    context: Tensor | None,
    weight: Tensor,
    branch: Sequence[Tensor],
    gradient: Tensor,
) -> tuple[Tensor | None, ...]:
    """Return differentiable gradients of the tensors that `_CompiledStep` takes."""
    if context is not None:
        return differentiable_gradients(functools.partial(_plain, settings), (x, context, weight, *branch), gradient)

    def averaged(x: Tensor, *parameters: Tensor) -> Tensor:
        average = pool_context(x, 1, x.dtype)
        assert settings.norm is not None
        context = F.batch_norm(average, None, None, training=True, eps=settings.norm.eps)
        return _plain(settings, x, context, *parameters)

    to_x, *rest = differentiable_gradients(averaged, (x, weight, *branch), gradient)
    return to_x, None, *rest


def _plain(settings: StepSettings, x: Tensor, context: Tensor, weight: Tensor, *branch: Tensor) -> Tensor:
    squeeze, scale_head, fusion_head, p, q = branch
    gain, *bounds = settings.branch
    hidden = F.relu(context @ squeeze.T)
    hidden = hidden * (gain * inverse_length(hidden))
    heads = zip((scale_head, fusion_head), bounds, strict=True)
    logits, fusion = (hidden @ bounded_rows(head, bound).T for head, bound in heads)
    latent_dim = p.shape[1]
    fusion = fusion.view(-1, 1, latent_dim, latent_dim) * inverse_lengths([(p, latent_dim), (q, latent_dim)])
    return plain_factored_step(settings.geometry, x, weight, activate_scale(logits, "sigmoid"), fusion, p, q)
