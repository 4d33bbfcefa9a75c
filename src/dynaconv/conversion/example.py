"""Example inputs and modes for running a network."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dynaconv.conversion.select import is_convolution
from dynaconv.errors import ConversionError, received
from dynaconv.families.contract.checks import as_sizes

Result = TypeVar("Result")
_SIDES = {1: (16384, 4096, 1024, 128), 2: (224, 64, 32, 28), 3: (32, 64, 16)}
"""Likely sizes of inputs, by number of spatial axes."""
_LETTERS = {1: "L", 2: "H, W", 3: "D, H, W"}


@contextmanager
def preserved_modes(model: nn.Module) -> Iterator[None]:
    """Restore the mode of each submodule after the block, also if modes differ."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Run the block in eval mode, then restore the mode of each submodule."""
    with preserved_modes(model):
        model.eval()
        yield


@contextmanager
def temporary_hooks(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove hooks after the block, also if registering one of them fails."""
    with ExitStack() as stack:
        for handle in handles:
            stack.enter_context(handle)
        yield


def as_input_size(model: nn.Module, given: Sequence[int]) -> tuple[int, ...]:
    """Return ``(B, C, *sizes)`` for a size given as that, or as ``(C, *sizes)`` for a batch of one.

    The model's first convolution determines the number of sizes.

    Raises:
        ConversionError: The size is neither.
    """
    dims = input_form(model)[0]
    sizes = as_sizes(given if isinstance(given, Sequence) else (given,))
    if sizes is None or len(sizes) not in (dims + 1, dims + 2):
        letters = _LETTERS[dims]
        raise ConversionError(
            f"`input_size` must be (B, C, {letters}) or (C, {letters}), positive integers; got {received(given)}."
        )
    return (1, *sizes) if len(sizes) == dims + 1 else sizes


def examples(model: nn.Module, input_size: Sequence[int] | None, example: Any) -> Iterator[tuple[Any, ...]]:
    """Yield positional arguments to run ``model`` with: the given input, or else random images of likely sizes."""
    if example is not None:
        yield example if isinstance(example, tuple) else (example,)
        return
    dims, channels = input_form(model)
    if input_size is not None:
        yield (random_images(model, as_input_size(model, input_size)),)
        return
    config = getattr(model, "pretrained_cfg", None)
    size = config.get("input_size") if isinstance(config, Mapping) else None
    if dims == 2 and isinstance(size, tuple | list) and len(size) == 3:
        yield (random_images(model, (1, channels, size[1], size[2])),)
    for side in _SIDES[dims]:
        yield (random_images(model, (1, channels, *(side,) * dims)),)


def input_form(model: nn.Module) -> tuple[int, int]:
    """Return the spatial axes and the channels of a network's input, as its first convolution has them."""
    first: Any = next((module for module in model.modules() if is_convolution(module)), None)
    return (2, 3) if first is None else (len(first.kernel_size), first.in_channels)


def random_images(model: nn.Module, size: Sequence[int]) -> Tensor:
    """Return random inputs of the model's dtype on its device, without changing the global random state."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    images = torch.rand(tuple(size), generator=torch.Generator().manual_seed(0))
    return images.to(parameter.device, parameter.dtype)


def run_first(
    inputs: Iterable[tuple[Any, ...]], run: Callable[[tuple[Any, ...]], Result], purpose: str, remedy: str
) -> Result:
    """Return the result of ``run`` for the first input on which it raises no exception.

    Args:
        inputs: Positional arguments of a model, see `examples`.
        run: Runs the model on them.
        purpose: Beginning of the error's message: why the model must run once.
        remedy: End of the message: what to pass.

    Raises:
        ConversionError: ``run`` raises an exception on every input; the message has the first.
    """
    failures = []
    for args in inputs:
        try:
            return run(args)
        # A network may raise any exception on an input that it is not made for.
        except Exception as error:
            what = tuple(args[0].shape) if len(args) == 1 and isinstance(args[0], Tensor) else "the example"
            # torch repeats a wrong argument whole.
            reason = " ".join(str(error).split())[:400].rstrip(".")
            failures.append(f"on {what} it raises {type(error).__name__}: {reason}")
    raise ConversionError(f"{purpose}, but {failures[0]}. {remedy}")
