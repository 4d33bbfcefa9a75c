"""A copy that torch.compile cannot look into."""

from typing import Any

import torch
from torch import Tensor

from dynaconv.ops.exporting import is_exporting


def saved_for_backward(tensor: Tensor) -> Tensor:
    """Return ``tensor``, or under torch.compile with gradients a copy that the compiler saves for the backward pass.

    Inductor (torch 2.14) would otherwise compute it again from what has changed since, or, for a view between two
    convolutions, have to order symbolic strides, which it cannot.
    """
    if torch.compiler.is_compiling() and torch.is_grad_enabled() and not is_exporting():
        copy: Tensor = _copy(tensor)
        return copy
    return tensor


@torch.library.custom_op("dynaconv::copy", mutates_args=())
def _copy(tensor: Tensor) -> Tensor:
    return tensor.clone()


@_copy.register_fake
def _fake_copy(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor)


def _backward(ctx: Any, gradient: Tensor) -> Tensor:
    return gradient


_copy.register_autograd(_backward)
