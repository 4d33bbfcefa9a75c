"""A whole DCD layer in training, context and branch included, by compiled operators."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.families.contract.branch import bounded_rows, inverse_length
from dynaconv.families.contract.norms import LatentBatchNorm2d
from dynaconv.families.dcd.factored_step import conv_gradients, join_kernels, plain_factored_step, split_kernels
from dynaconv.families.dcd.factors import activate_scale, inverse_lengths
from dynaconv.ops.context import pool_context
from dynaconv.ops.eager import LANES, differentiable_gradients, trains_in_channels_last
from dynaconv.ops.geometry import Geometry
from dynaconv.ops.per_sample import grouped_matmul, outer_per_sample, times_transposed
from dynaconv.ops.shared import static_conv


class StepSettings(NamedTuple):
    """The options of a layer that the operators read."""

    geometry: Geometry
    branch: tuple[float, float, float]
    """The branch's gain, and the bounds of the heads for Lambda and Phi."""
    norm: LatentBatchNorm2d | None
    """The norm of the context, if that is the average of the input; None if the context is given."""
    forms_kernel: bool
    """Whether W(x) is formed; else its factors are applied."""
    joined: bool = False
    """Whether W0 and Q^T are one kernel; else Q^T x is computed with the context."""

    @property
    def numbers(self) -> tuple[float, ...]:
        """The branch's numbers, and momentum and epsilon of the norm."""
        norm = self.norm
        return (*self.branch, *((0.0, 0.0) if norm is None or norm.momentum is None else (norm.momentum, norm.eps)))

    def sizes(self, x: Tensor) -> list[int]:
        """Return stride, first pixel of the centre tap and size of the output, and whether Q^T x is computed here."""
        geometry = self.geometry
        firsts = (d * c - p for d, c, p in zip(geometry.dilation, geometry.centre, geometry.padding, strict=True))
        return [
            *geometry.stride,
            *firsts,
            *geometry.output_size(*x.shape[2:]),
            int(not (self.forms_kernel or self.joined)),
        ]


def supports_compiled_step(x: Tensor, tensors: Sequence[Tensor], geometry: Geometry) -> bool:
    """Whether the operators serve this input of a layer with the default branch; ``tensors`` begin with W0."""
    return geometry.dense_2d and len(tensors[0]) % LANES == 0 and trains_in_channels_last(x, *tensors)


def averaging_norm(norm: nn.Module | None, batch: int) -> LatentBatchNorm2d | None:
    """Return the norm if the operators average the input and normalise it so: by statistics of a batch of several."""
    serves = (
        type(norm) is LatentBatchNorm2d
        and norm.training
        and norm.momentum is not None
        and norm.running_mean is not None
        and norm.running_var is not None
        and norm.num_batches_tracked is not None
        and norm.running_mean.dtype == norm.running_var.dtype == torch.float32
        and batch > 1
    )
    return norm if serves and isinstance(norm, LatentBatchNorm2d) else None


def compiled_step_dcd(
    x: Tensor, context: Tensor | None, parameters: Sequence[Tensor], settings: StepSettings
) -> Tensor:
    """Return W(x) x, ``(B, C_out, H_out, W_out)``, if `supports_compiled_step` holds.

    Args:
        x: Input, ``(B, C_in, H, W)``, channels_last.
        context: The normalised context, ``(B, F)``; None for the average of ``x``, whose norm
            is that of the settings.
        parameters: W0, the branch's first map ``(H, F)``, its heads for Lambda ``(C_out, H)`` and Phi
            ``(L * L, H)``, P and Q.
        settings: Geometry and branch.
    """
    assert (context is None) == (settings.norm is not None)
    out: Tensor = _CompiledStep.apply(x, context, *parameters, settings)
    return out


class _CompiledStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, context: Tensor | None, weight: Tensor, *arguments: Any) -> Tensor:
        *branch, settings = arguments
        norm, operators = settings.norm, _operators()
        running = [] if norm is None else [norm.running_mean, norm.running_var, norm.num_batches_tracked]
        arguments = _arguments(x, context, branch)
        memory = operators.dcd_prepare(*arguments, running, settings.numbers, settings.sizes(x))
        fixed = None
        if settings.forms_kernel:
            out = grouped_matmul(_kernel(weight, branch[-1], memory, len(x)), x)
        else:
            kernel = join_kernels(weight, branch[-1], settings.geometry) if settings.joined else weight
            fixed = static_conv(x, kernel, settings.geometry).contiguous(memory_format=torch.channels_last)
            size = (len(x), len(weight), *fixed.shape[2:])
            out = torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)
            operators.dcd_sum(fixed, memory, branch[-1].shape[1], out)
        ctx.settings = settings
        ctx.save_for_backward(x, context, weight, *branch, memory, fixed)
        result: Tensor = out
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, context, weight, *branch, memory, fixed = ctx.saved_tensors
        settings, for_x = ctx.settings, ctx.needs_input_grad[0]
        if torch.is_grad_enabled():
            return *_second_gradients(settings, x, context, weight, branch, gradient), None
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        to_q = None
        if settings.forms_kernel:
            to_x, to_weight, to_q, to_memory = _formed_gradients(x, weight, branch[-1], memory, gradient, for_x)
        else:
            q, geometry, to_fixed = branch[-1], settings.geometry, torch.empty_like(fixed)
            to_memory = _operators().dcd_sum_gradients(fixed, memory, q.shape[1], gradient, to_fixed)
            kernel = join_kernels(weight, q, geometry) if settings.joined else weight
            to_x, to_weight = conv_gradients(to_fixed, x, kernel, geometry, for_x)
            if settings.joined:
                to_weight, to_q = split_kernels(to_weight, len(weight), geometry)
        none = x.new_empty(0)
        to_x = none if to_x is None else to_x.contiguous(memory_format=torch.channels_last)
        inputs = _arguments(x, context, branch)
        to_context, *to_branch = found = [torch.empty_like(part) for part in (inputs[1], *inputs[2])]
        _operators().dcd_gradients(*inputs, settings.numbers, settings.sizes(x), memory, to_memory, to_x, found)
        if to_q is not None:
            to_branch[-1] += to_q
        return to_x if for_x else None, None if context is None else to_context, to_weight, *to_branch, None


def _operators() -> Any:
    return torch.ops.dynaconv


def _arguments(x: Tensor, context: Tensor | None, branch: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return the operators' first arguments, an empty context for None."""
    given = x.new_empty(0) if context is None else context.contiguous()
    return x, given, [part.contiguous() for part in branch]


def _kernel(weight: Tensor, q: Tensor, memory: Tensor, batch: int) -> Tensor:
    """Return W(x), ``(B, C_out, C_in)``."""
    matrix = weight.flatten(1).contiguous()
    out: Tensor = _operators().dcd_kernel(matrix, q.contiguous(), memory, matrix.new_empty(batch, *matrix.shape))
    return out


def _formed_gradients(
    x: Tensor, weight: Tensor, q: Tensor, memory: Tensor, gradient: Tensor, for_x: bool
) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    """Return the gradients of x (if ``for_x``), W0, Q and the coefficients, of a product with W(x)."""
    matrix, q = weight.flatten(1).contiguous(), q.contiguous()
    to_weight, to_q = torch.empty_like(matrix), torch.empty_like(q)
    to_memory = _operators().dcd_kernel_gradients(matrix, q, memory, outer_per_sample(gradient, x), to_weight, to_q)
    to_x = times_transposed(_kernel(weight, q, memory, len(x)), gradient, x) if for_x else None
    return to_x, to_weight.view(weight.shape), to_q, to_memory


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
