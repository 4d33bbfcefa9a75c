"""Example inputs and modes for running a network."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.conversion.select import is_convolution
from dynaconv.errors import ConversionError

_IMAGE_SIDES = (224, 64, 32, 28)


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


def as_input_size(given: Sequence[int]) -> tuple[int, int, int, int]:
    """Return ``(B, C, H, W)`` for a size given as ``(B, C, H, W)``, or as ``(C, H, W)`` for a batch of one.

    Raises:
        ConversionError: The size is neither.
    """
    sizes = tuple(given) if isinstance(given, Sequence) else (given,)
    if len(sizes) not in (3, 4) or not all(type(size) is int and size > 0 for size in sizes):
        raise ConversionError(f"`input_size` must be (B, C, H, W) or (C, H, W), positive integers; got {given!r}.")
    batch, channels, height, width = (1, *sizes) if len(sizes) == 3 else sizes
    return batch, channels, height, width


def examples(model: nn.Module, input_size: Sequence[int] | None, example: Any) -> Iterator[tuple[Any, ...]]:
    """Yield positional arguments to run ``model`` with: the given input, or else random images of likely sizes."""
    if example is not None:
        yield example if isinstance(example, tuple) else (example,)
        return
    if input_size is not None:
        yield (random_images(model, as_input_size(input_size)),)
        return
    config = getattr(model, "pretrained_cfg", None)
    size = config.get("input_size") if isinstance(config, Mapping) else None
    channels = next((module.in_channels for module in model.modules() if is_convolution(module)), 3)
    assert isinstance(channels, int)
    if isinstance(size, tuple | list) and len(size) == 3:
        yield (random_images(model, (1, channels, size[1], size[2])),)
    for side in _IMAGE_SIDES:
        yield (random_images(model, (1, channels, side, side)),)


def random_images(model: nn.Module, size: tuple[int, int, int, int]) -> Tensor:
    """Return random images of the model's dtype on its device, without changing the global random state."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    images = torch.rand(size, generator=torch.Generator().manual_seed(0))
    return images.to(parameter.device, parameter.dtype)
