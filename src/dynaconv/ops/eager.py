"""Conditions and second derivatives of autograd functions with a backward pass of their own."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dynaconv.ops.exporting import is_exporting

_compiled = False


def enable_compiled(enabled: bool) -> None:
    """Let layers train by compiled operators. The native library must be loaded, because it registers the operators."""
    global _compiled
    _compiled = enabled


def compiled_is_enabled() -> bool:
    """Return whether layers train by compiled operators where there are some."""
    return _compiled


_transformed = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)


def trains_eagerly(tensors: Iterable[Tensor], dtype: torch.dtype) -> bool:
    """Whether gradients of these tensors are recorded in eager mode, and all are of ``dtype`` on the CPU.

    Compilers, exporters, functorch and forward-mode differentiation support only plain operators; autocast chooses a
    dtype for each plain operator.
    """
    if not torch.is_grad_enabled():
        return False
    tensors = tuple(tensors)
    return (
        any(tensor.requires_grad for tensor in tensors)
        and all(tensor.device.type == "cpu" and tensor.dtype == dtype for tensor in tensors)
        and not (torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or is_exporting() or _transformed())
        and forward_ad._current_level < 0
    )


LANES = 8
"""The compiled operators on channels_last images take a multiple of this many channels."""


def trains_in_channels_last(x: Tensor, *others: Tensor) -> bool:
    """Whether compiled operators on channels_last images serve this input, trained in float32 with other tensors."""
    return (
        x.dim() == 4
        and x.shape[1] % LANES == 0
        and x.numel() > 0
        # Before the memory format, which functorch does not know.
        and trains_eagerly((x, *others), torch.float32)
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def differentiable_gradients(
    run: Callable[..., Tensor], inputs: Sequence[Tensor], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """Return differentiable gradients of ``run(*inputs)``, for second derivatives; None if an input needs none."""
    # Differentiate with respect to views, because one input (Lambda) may depend on another (x).
    views = [tensor.view_as(tensor) for tensor in inputs]
    needed = [tensor for tensor in views if tensor.requires_grad]
    gradients = iter(torch.autograd.grad(run(*views), needed, gradient, create_graph=True))
    return tuple(next(gradients) if tensor.requires_grad else None for tensor in inputs)


def not_a_view(out: Tensor) -> Tensor:
    """Return the result of an autograd function such that the next layer, a ReLU for example, may change it in place.

    Autograd refuses that for a view of another tensor.
    """
    return out.data
