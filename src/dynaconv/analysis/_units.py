"""The leaf layers of a network, and running it so that it is afterwards as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


def is_dynamic(module: nn.Module) -> bool:
    """Whether the module answers `coefficients(x)`, as every dynamic layer does."""
    return callable(getattr(module, "coefficients", None))


def layers_of(model: nn.Module) -> dict[nn.Module, str]:
    """The layers of a network in order of registration, and their names.

    A layer is a module without children, a dynamic layer, or a module with tensors of its own around children that
    have none, such as a batch norm that holds its activation.
    """
    found: dict[nn.Module, str] = {}
    seen: set[nn.Module] = set()
    stack = [("", model)]
    while stack:
        name, module = stack.pop()
        if module in seen:
            continue
        seen.add(module)
        if is_dynamic(module) or _is_one_layer(module):
            found[module] = name
            continue
        children = reversed(list(module.named_children()))
        stack.extend((f"{name}.{child}" if name else child, sub) for child, sub in children)
    return found


def _is_one_layer(module: nn.Module) -> bool:
    if parametrize.is_parametrized(module):
        return True
    children = list(module.children())
    return not children or (_has_tensors(module, recurse=False) and not any(map(_has_tensors, children)))


def _has_tensors(module: nn.Module, recurse: bool = True) -> bool:
    return any(True for _ in module.parameters(recurse)) or any(True for _ in module.buffers(recurse))


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards every submodule has the mode it had, also where they differ."""
    with _kept_modes(model):
        model.eval()
        yield


@contextmanager
def train_mode(model: nn.Module) -> Iterator[None]:
    """Train mode inside the block; afterwards modes, buffers and random state are what they were.

    Running statistics are buffers, so batch norms forget what they saw inside.
    """
    buffers = [(module, name, value) for module in model.modules() for name, value in module._buffers.items()]
    copies = {id(value): value.detach().clone() for _, _, value in buffers if value is not None}
    with kept_random_state(), _kept_modes(model):
        model.train()
        try:
            yield
        finally:
            for module, name, value in buffers:
                module._buffers[name] = value
                if value is not None and not _same(value, copies[id(value)]):
                    with torch.no_grad():
                        value.copy_(copies[id(value)])


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Random numbers drawn inside the block change nothing outside it."""
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if started else []):
        yield


@contextmanager
def _kept_modes(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _same(value: Tensor, copy: Tensor) -> bool:
    return value.is_meta or torch.equal(value, copy)


def checked_size(input_size: Sequence[int]) -> tuple[int, int, int, int]:
    """(B, C, H, W) from a size with or without the batch; ValueError for anything else."""
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in input_size)
    size = tuple(input_size)
    if len(size) not in (3, 4) or not whole:
        raise ValueError(f"`input_size` is (C, H, W) or (B, C, H, W), positive integers; got {size}.")
    batch, channels, height, width = (1, *size) if len(size) == 3 else size
    return batch, channels, height, width


def example_input(model: nn.Module, size: tuple[int, ...]) -> Tensor:
    """Zeros on the device and in the dtype of the model's first floating-point parameter."""
    for tensor in model.parameters():
        if tensor.is_floating_point():
            return torch.zeros(size, device=tensor.device, dtype=tensor.dtype)
    return torch.zeros(size)
