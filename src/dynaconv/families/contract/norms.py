"""Norms inside dynamic layers, for contexts and latent feature maps."""

import math
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.ops.compiling import saved_for_backward

ContextNorm = Literal["layer", "batch", "running"] | None
NORM_EPSILON = 1e-5
"""Added to the variance of a context."""
CONTEXT_NORMS = ("layer", "batch", "running", None)


class LatentBatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` that in train mode normalises a single value per channel by the running statistics.

    One sample of 1x1 pixels has no variance; `torch.nn.BatchNorm2d` raises an error for it.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept feature maps of any dimension, unlike `torch.nn.BatchNorm2d`."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(B, L, *sizes)`` over all axes but the second."""
        if self.training and input.shape[0] * math.prod(input.shape[2:]) == 1:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


class RunningNorm2d(nn.Module):
    """Normalises by the statistics of earlier batches, in train mode too, so that no sample depends on another.

    The statistics are moving averages over the batches of train mode; each batch is added after it was normalised. The
    first batches are weighted as in a plain average that includes an initial mean 0 and variance 1. No gradient passes
    through the statistics.

    Args:
        num_features: Number of channels.
        eps: Added to the variance.
        momentum: Minimum weight of a new batch, in (0, 1].
        device, dtype: Device and dtype of the statistics.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    weight = bias = None

    def __init__(
        self,
        num_features: int,
        eps: float = NORM_EPSILON,
        momentum: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.register_buffer("running_mean", torch.zeros(num_features, device=device, dtype=dtype))
        self.register_buffer("running_var", torch.ones(num_features, device=device, dtype=dtype))
        self.register_buffer("num_batches_tracked", torch.zeros((), device=device, dtype=torch.long))

    def reset_parameters(self) -> None:
        """Reset the statistics."""
        nn.init.zeros_(self.running_mean)
        nn.init.ones_(self.running_var)
        nn.init.zeros_(self.num_batches_tracked)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(B, C, H, W)`` over all axes but the second."""
        scale, shift = scale_and_shift(self, input.dtype)
        if self.training:
            # Computed again in the backward pass, it would use the statistics that `_track` has changed.
            scale = saved_for_backward(scale)
        out = input * scale[:, None, None] + shift[:, None, None]
        if self.training:
            self._track(input.detach())
        return out

    @torch.no_grad()
    def _track(self, input: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        share = (1 / (self.num_batches_tracked + 1)).clamp(min=self.momentum).to(input.dtype)
        variance, mean = torch.var_mean(input, (0, 2, 3), correction=0)
        before = self.running_mean.to(input.dtype)
        # The variance of a mixture: the weighted mean of both variances plus the variance of both means.
        variance = torch.lerp(self.running_var.to(input.dtype), variance, share)
        variance = variance + share * (1 - share) * (mean - before).square()
        self.running_mean.copy_(torch.lerp(before, mean, share))
        self.running_var.copy_(variance)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


def make_context_norm(
    kind: str | None, features: int, device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Module | None:
    """Return the norm of a context ``(B, features)``, without learnable scale and shift.

    ``layer`` normalises each context over its features. ``batch`` normalises each feature over the batch, ``running``
    by the statistics of earlier batches; both remove the component that the contexts of all images share.

    Raises:
        ValueError: ``kind`` is ``layer`` and ``features`` is 1.
    """
    if kind == "layer" and features == 1:
        raise ValueError("context_norm='layer' would set a context of one feature to zero; use context_norm=None.")
    if kind == "layer":
        return nn.LayerNorm(features, eps=NORM_EPSILON, elementwise_affine=False)
    if kind == "batch":
        return LatentBatchNorm2d(features, affine=False, device=device, dtype=dtype)
    return None if kind is None else RunningNorm2d(features, device=device, dtype=dtype)


def normalise(norm: nn.Module | None, values: Tensor, *, track: bool = True) -> Tensor:
    """Normalise a context or hidden vector ``(B, C)`` in its own dtype, also if the norm has another dtype.

    Args:
        norm: A norm of `make_context_norm`, a batch norm for 4-D inputs by which another tool replaced it, or None.
        values: ``(B, C)`` in float32 or float64.
        track: Whether train mode updates the running statistics.
    """
    if norm is None or isinstance(norm, nn.Identity):
        return values
    if isinstance(norm, nn.LayerNorm):
        scale, shift = (None if part is None else part.to(values.dtype) for part in (norm.weight, norm.bias))
        return torch.layer_norm(values, norm.normalized_shape, scale, shift, norm.eps)
    training, mean = norm.training, cast(Any, getattr(norm, "running_mean", None))
    affine = not training and isinstance(mean, Tensor)
    # torch.onnx.export(dynamo=False) refuses a batch norm if it does not know the number of channels.
    traced = affine and torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    if affine and not traced and type(norm) is LatentBatchNorm2d and mean.dtype == values.dtype:
        return torch.batch_norm(values, norm.weight, norm.bias, mean, norm.running_var, False, 0.0, norm.eps, False)
    if training and values.shape[0] == 0:
        # The statistics of an empty batch would be NaN.
        return values
    # All batch norms by which other tools may replace the norm take 4-D inputs.
    images = values[:, :, None, None]
    same_type = all(t.dtype == values.dtype for t in (*norm.parameters(), *norm.buffers()) if t.is_floating_point())
    if same_type and (track or not training) and not traced:
        return norm(images).flatten(1)  # type: ignore[no-any-return]
    if affine:
        # `functional_call` below swaps the norm's tensors, which is unsafe if several threads run the layer.
        scale, shift = scale_and_shift(norm, values.dtype)
        return values * scale + shift
    copies = {name: _copy(tensor, values.dtype) for name, tensor in _state(norm).items()}
    out: Tensor = torch.func.functional_call(norm, copies, (images,))
    if track and training:
        with torch.no_grad():
            for name, buffer in norm.named_buffers():
                buffer.copy_(copies[name])
    return out.flatten(1)


def scale_and_shift(norm: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return scale and shift, each ``(L,)``, of the map z -> scale * z + shift of a batch norm in eval mode.

    ``norm`` may be a norm by which another tool replaced `LatentBatchNorm2d`, such as a synchronised or a frozen norm.
    """
    parts: Any = norm
    scale = torch.rsqrt(parts.running_var.to(dtype) + parts.eps)
    if parts.weight is not None:
        scale = parts.weight.to(dtype) * scale
    shift = -parts.running_mean.to(dtype) * scale
    return scale, shift if parts.bias is None else parts.bias.to(dtype) + shift


@torch.no_grad()
def norm_affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the scale and shift, each ``(C,)`` in float64, of a norm with running statistics in eval mode."""
    parts: Any = norm
    # On the CPU, because not every device supports float64.
    mean, variance = (part.detach().cpu().double() for part in (parts.running_mean, parts.running_var))
    scale, shift = torch.rsqrt(variance + parts.eps), torch.zeros_like(mean)
    if parts.weight is not None:
        scale = scale * parts.weight.detach().cpu().double()
    if parts.bias is not None:
        shift = parts.bias.detach().cpu().double()
    return scale, shift - mean * scale


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _copy(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype, copy=True) if tensor.is_floating_point() else tensor.clone()
