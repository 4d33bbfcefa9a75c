"""Argument checks that the layers share. Every message states the error, the value received and the remedy."""

import difflib
import operator
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from dynaconv.errors import check_type, received
from dynaconv.ops import is_exporting


def check_module(model: object) -> None:
    """Raise TypeError unless the argument ``model`` is a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module; got {type(model).__name__}.")


def as_int(value: object) -> int | None:
    """Return ``value`` as an int if it is of an integer type (also of numpy) other than bool; else None."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    try:
        return operator.index(value)
    except TypeError:
        # Every tensor has the method, but only one that holds a single integer has an index.
        return None


def as_sizes(values: Iterable[object]) -> tuple[int, ...] | None:
    """Return values as ints if all are integers of at least 1, also of numpy; else None."""
    numbers = [as_int(value) for value in values]
    sizes = tuple(number for number in numbers if number is not None and number > 0)
    return sizes if len(sizes) == len(numbers) else None


def check_integer(name: str, value: object, *, least: int = 1, error: type[ValueError] = ValueError) -> int:
    """Return ``value`` if it is an integer of at least ``least``, else raise ``error``."""
    number = as_int(value)
    if number is None or number < least:
        raise error(f"{name} must be an integer of at least {least}; got {received(value)}.")
    return number


def check_divisor(name: str, value: object, *, example: int) -> int:
    """Return ``value`` if it is a divisor, an integer of at least 1, else raise ValueError."""
    number = as_int(value)
    if number is None or number < 1:
        raise ValueError(
            f"{name} is a divisor and must be an integer of at least 1; got {received(value)}. For a ratio of "
            f"1/{example} pass {example}."
        )
    return number


def check_choice(
    name: str, value: object, choices: Iterable[object], *, where: str = "", error: type[ValueError] = ValueError
) -> None:
    """Raise ``error`` unless ``value`` is one of ``choices``; the message names the nearest one.

    Args:
        name: Name of the argument.
        value: Its value.
        choices: The valid values.
        where: A condition under which they are the valid ones, for the message.
        error: Class of the error.
    """
    known = list(choices)
    if any(type(value) is type(choice) and value == choice for choice in known):
        return
    near = difflib.get_close_matches(value, map(str, known), n=1) if isinstance(value, str) else []
    hint = f", and the nearest is {near[0]!r}" if near else ""
    raise error(f"{name} must be one of {', '.join(map(repr, known))}{where}; got {received(value)}{hint}.")


def check_divides(name: str, value: int, channels_name: str, channels: int) -> None:
    """Raise ValueError unless ``value`` divides ``channels``; the message lists the divisors."""
    if channels % value:
        divisors = ", ".join(str(d) for d in range(1, channels + 1) if channels % d == 0)
        raise ValueError(f"{name}={value} does not divide {channels_name}={channels}; use one of {divisors}.")


def check_real(tensor: Tensor) -> Tensor:
    """Return ``tensor`` if it is a real tensor, else raise TypeError or ValueError."""
    check_type("x", tensor, Tensor)
    if tensor.is_complex():
        raise ValueError(
            f"dynamic layers take real numbers; got {str(tensor.dtype).removeprefix('torch.')}. Pass the real and the "
            f"imaginary part as separate channels."
        )
    return tensor


AXES = ("length", "height, width", "depth, height, width")
"""Names of the spatial axes, by their number less one."""


def check_images(x: Tensor, in_channels: int, dims: int, layer: str) -> None:
    """Raise ValueError unless ``x`` is ``(B, in_channels, *sizes)`` of real numbers with ``dims`` sizes."""
    check_real(x)
    if x.dim() != dims + 2:
        hint = " Add the batch axis with x.unsqueeze(0)." if x.dim() == dims + 1 else ""
        raise ValueError(
            f"{layer} takes a {dims + 2}-D input (batch, channels, {AXES[dims - 1]}); got {x.dim()}-D "
            f"{tuple(x.shape)}.{hint}"
        )
    if x.shape[1] != in_channels:
        raise ValueError(
            f"{layer} was built for in_channels={in_channels}; the input {tuple(x.shape)} has {x.shape[1]} channels."
        )


def has_shape(tensor: Tensor, shape: Sequence[int]) -> bool:
    """Whether a tensor has a shape; while a graph is recorded, whose batch size may be free, without the first axis."""
    if tensor.dim() != len(shape):
        return False
    first = int(torch.compiler.is_compiling() or is_exporting())
    return tuple(tensor.shape[first:]) == tuple(shape[first:])


def checked_mask(mask: Tensor, batch: int, sizes: Sequence[int], layer: str) -> Tensor:
    """Return a mask of the positions of a batch as ``(B, 1, *sizes)`` in bool.

    Args:
        mask: ``(B, *sizes)`` or ``(B, 1, *sizes)``, bool or 0 and 1.
        batch, sizes: Lengths of the input's axes.
        layer: Name of the layer's class, for messages.

    Raises:
        TypeError: the mask is no tensor.
        ValueError: the mask has another shape, or values other than 0 and 1.
    """
    check_type("mask", mask, Tensor)
    if has_shape(mask, (batch, *sizes)):
        mask = mask.unsqueeze(1)
    elif not has_shape(mask, (batch, 1, *sizes)):
        lengths = ", ".join(map(str, sizes))
        raise ValueError(
            f"the mask of {layer} must have one value for each position of the input, ({batch}, {lengths}) or "
            f"({batch}, 1, {lengths}); got {tuple(mask.shape)}."
        )
    if mask.dtype == torch.bool:
        return mask
    kept = mask != 0
    # On other devices, reading a value would wait for the device.
    readable = mask.device.type == "cpu" and not (torch.compiler.is_compiling() or is_exporting())
    if readable and not (kept == mask).all():
        raise ValueError(f"the mask of {layer} must be 1 for positions that count and 0 for padding; got other values.")
    return kept
