"""A whole DCD layer in training, context and branch included, by compiled operators."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.families.contract.branch import bounded_rows, inverse_length
from dynaconv.families.contract.norms import LatentBatchNorm2d
from dynaconv.families.dcd.factored_step import plain_factored_step
from dynaconv.families.dcd.factors import activate_scale, inverse_lengths
from dynaconv.ops.context import pool_context
from dynaconv.ops.eager import LANES, differentiable_gradients, trains_in_channels_last
from dynaconv.ops.geometry import Geometry


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

    @property
    def sizes(self) -> tuple[int, ...]:
        """Stride, padding and dilation, and the two choices."""
        geometry = self.geometry
        return (*geometry.stride, *geometry.padding, *geometry.dilation, int(self.forms_kernel), int(self.joined))


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


class _Written:
    """Whether a tensor was changed in place since; does not keep its memory."""

    def __init__(self, tensor: Tensor) -> None:
        # A detached tensor shares the version, also with other data.
        self._marker = tensor.detach()
        self._marker.data = tensor.new_empty(0)
        self._version = tensor._version

    def __bool__(self) -> bool:
        return self._marker._version != self._version


class _CompiledStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, context: Tensor | None, *arguments: Any) -> Tensor:
        *parameters, settings = arguments
        norm = settings.norm
        running = [] if norm is None else [norm.running_mean, norm.running_var, norm.num_batches_tracked]
        numbers, sizes = settings.numbers, settings.sizes
        out, memory = torch.ops.dynaconv.dcd_layer(x, context, parameters, running, numbers, sizes)
        ctx.settings, ctx.numbers = settings, (numbers, sizes)
        kept = None
        if not settings.forms_kernel:
            # The layer behind keeps its output too, or changes it in place, which `written` tells.
            kept, ctx.written = out.data, _Written(out)
        ctx.save_for_backward(x, context, *parameters, memory, kept)
        result: Tensor = out
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, context, *parameters, memory, out = ctx.saved_tensors
        if torch.is_grad_enabled():
            weight, *branch = parameters
            return *_second_gradients(ctx.settings, x, context, weight, branch, gradient), None
        for_x = ctx.needs_input_grad[0]
        if out is not None and ctx.written:
            out = None
        to_x, to_context, *found = torch.ops.dynaconv.dcd_layer_gradients(
            x, context, parameters, *ctx.numbers, memory, out, gradient, for_x
        )
        return to_x if for_x else None, None if context is None else to_context, *found, None


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
