"""An input on which a network can be run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.conversion.select import is_convolution
from dynaconv.errors import ConversionError

_SIDES = (224, 64, 32, 28)


def as_input_size(given: Sequence[int]) -> tuple[int, int, int, int]:
    """``(B, C, H, W)`` of a size that was given so or as ``(C, H, W)``.

    Raises:
        ConversionError: It is neither.
    """
    sizes = tuple(given) if isinstance(given, Sequence) else (given,)
    if len(sizes) not in (3, 4) or not all(type(size) is int and size > 0 for size in sizes):
        raise ConversionError(f"`input_size` is (B, C, H, W) or (C, H, W), whole numbers; got {given!r}.")
    batch, channels, height, width = (1, *sizes) if len(sizes) == 3 else sizes
    return batch, channels, height, width


def examples(model: nn.Module, input_size: Sequence[int] | None, example: Any) -> Iterator[tuple[Any, ...]]:
    """Positional arguments to run ``model`` with: what was given, else images of the sizes it may be made for."""
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
    for side in _SIDES:
        yield (random_images(model, (1, channels, side, side)),)


def random_images(model: nn.Module, size: tuple[int, int, int, int]) -> Tensor:
    """Images of the model's type, on its device; the global random state is left alone."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    images = torch.rand(size, generator=torch.Generator().manual_seed(0))
    return images.to(parameter.device, parameter.dtype)
