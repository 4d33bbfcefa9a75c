"""The leaf layers of a network, and context managers that restore its state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dynaconv.conversion.example import preserved_modes, temporary_hooks
from dynaconv.families.contract.operator import DynamicOperator


def is_dynamic(module: nn.Module) -> bool:
    """Return whether the module has a method `coefficients(x)`, as every dynamic layer has."""
    return callable(getattr(module, "coefficients", None))


def branch_arguments(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Return the arguments of a module's call with which its coefficients and kernels are computed."""
    return (module.call_arguments(*args, **kwargs), {}) if isinstance(module, DynamicOperator) else (args, kwargs)


def leaf_layers(model: nn.Module) -> dict[nn.Module, str]:
    """Return the leaf layers of a network and their names, in order of registration.

    A leaf layer is a module without children, a dynamic layer, a parametrized module, or a module that has tensors
    of its own while its children have none, such as a batch norm that contains its activation.
    """
    layers: dict[nn.Module, str] = {}
    seen: set[nn.Module] = set()
    stack = [("", model)]
    while stack:
        name, module = stack.pop()
        if module in seen:
            continue
        seen.add(module)
        if is_dynamic(module) or _is_one_layer(module):
            layers[module] = name
            continue
        children = reversed(list(module.named_children()))
        stack.extend((f"{name}.{child}" if name else child, sub) for child, sub in children)
    return layers


def _is_one_layer(module: nn.Module) -> bool:
    if parametrize.is_parametrized(module):
        return True
    children = list(module.children())
    return not children or (_has_tensors(module, recurse=False) and not any(map(_has_tensors, children)))


def _has_tensors(module: nn.Module, recurse: bool = True) -> bool:
    return any(True for _ in module.parameters(recurse)) or any(True for _ in module.buffers(recurse))


@contextmanager
def call_hooks(
    layers: Iterable[nn.Module], before: Callable[[nn.Module, Any], None], after: Callable[[nn.Module, Any, Any], None]
) -> Iterator[None]:
    """Call `before(layer, args)` and `after(layer, args, output)` around every call of the layers in the block."""
    hooks = ((layer.register_forward_pre_hook(before), layer.register_forward_hook(after)) for layer in layers)
    with temporary_hooks(chain.from_iterable(hooks)):
        yield


@contextmanager
def train_mode(model: nn.Module) -> Iterator[None]:
    """Run the block in train mode, then restore modes, buffers and random state.

    The running statistics of batch norms are buffers, so they are restored too.
    """
    buffers = [(module, name, value) for module in model.modules() for name, value in module._buffers.items()]
    saved = {id(value): value.detach().clone() for _, _, value in buffers if value is not None}
    with preserved_rng_state(), preserved_modes(model):
        model.train()
        try:
            yield
        finally:
            for module, name, value in buffers:
                module._buffers[name] = value
                if value is not None and not _unchanged(value, saved[id(value)]):
                    with torch.no_grad():
                        value.copy_(saved[id(value)])


@contextmanager
def preserved_rng_state() -> Iterator[None]:
    """Restore the random state after the block: of the CPU and, if CUDA is initialised, of all its devices."""
    cuda_initialised = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if cuda_initialised else []):
        yield


def _unchanged(value: Tensor, copy: Tensor) -> bool:
    return value.is_meta or torch.equal(value, copy)


def example_input(model: nn.Module, size: tuple[int, ...]) -> Tensor:
    """Return zeros on the device and in the dtype of the model's first floating-point parameter."""
    for tensor in model.parameters():
        if tensor.is_floating_point():
            return torch.zeros(size, device=tensor.device, dtype=tensor.dtype)
    return torch.zeros(size)
