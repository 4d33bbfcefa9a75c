"""The temperature of attention: a buffer of the layers that have one, set for a whole network by one call."""

import math

import torch
from torch import Tensor, nn


def temperature_buffer(value: float, device: torch.device | str | None = None) -> Tensor:
    """A checked temperature as a scalar tensor, for `torch.nn.Module.register_buffer`."""
    return torch.tensor(_checked(value), device=device)


def set_temperature(model: nn.Module, value: float) -> int:
    """Set the temperature of every layer that has one, in place.

    Args:
        model: A network or a layer. `dynaconv.DYConv2d` and `dynaconv.ODConv2d` have a temperature.
        value: > 0. Large values make attention even, small ones make it choose.

    Returns:
        How many layers were set.

    Raises:
        ValueError: the value is no positive number, or no layer of the model has a temperature.
    """
    value = _checked(value)
    buffers = [module.temperature for module in model.modules() if has_temperature(module)]
    if not buffers:
        raise ValueError(
            f"{type(model).__name__} has no layer with a temperature; DYConv2d and ODConv2d have one, so there is "
            f"nothing to set."
        )
    for buffer in buffers:
        assert isinstance(buffer, Tensor)
        buffer.fill_(value)
    return len(buffers)


def has_temperature(module: nn.Module) -> bool:
    """Whether this very module has a temperature."""
    return isinstance(module._buffers.get("temperature"), Tensor)


def _checked(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"temperature must be a positive number; got {value!r}.")
    return float(value)
