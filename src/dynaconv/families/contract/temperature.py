"""The temperature of attention. It is part of the training schedule and is set for a whole network by one call."""

import math
import re
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dynaconv.errors import as_number, received
from dynaconv.families.contract.checks import check_module

_KEY = "temperature"
_AVERAGING_CLASSES = re.compile(r"E[Mm][Aa](?![a-z])|Averag|SWA")
"""Names of classes that average the weights of a network, such as timm's ModelEmaV3 and torch's AveragedModel."""


@dataclass(frozen=True, kw_only=True)
class TemperatureRange:
    """The temperatures of a family's layers, and how they change during training.

    Attributes:
        low, high: Limits of the temperature.
        low_included: Whether ``low`` itself is a temperature.
        start, end: Temperature at the first update and after the annealing, as in the family's paper.
        epochs: Length of the annealing in long runs, in epochs.
    """

    low: float = 0.0
    high: float = math.inf
    low_included: bool = False
    start: float
    end: float
    epochs: float

    def __contains__(self, value: float) -> bool:
        return (
            self.low < value < self.high or value == self.high < math.inf or (self.low_included and value == self.low)
        )

    def __str__(self) -> str:
        return "a positive number" if self.high == math.inf else f"a number from {self.low:g} to {self.high:g}"


SOFTMAX_TEMPERATURE = TemperatureRange(start=30.0, end=1.0, epochs=10.0)
"""Divisor of logits: from 30 to 1 over ten epochs, Chen et al., CVPR 2020, arXiv:1912.03458v2."""


class _Temperature:
    """Holds the temperature of one layer outside its buffers, because weight averaging also averages buffers.

    A copy of the layer has its own temperature. The exception is the copy in a class that averages weights: it shares
    the temperature of the network that it averages, because the network's schedule continues after the copy.
    """

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Temperature":
        return self if _in_averaging_constructor() else _Temperature(self.value.clone())


def _in_averaging_constructor() -> bool:
    """Whether the copy is made in the constructor of a class that averages weights."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "__init__" and _AVERAGING_CLASSES.search(type(frame.f_locals.get("self")).__name__):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


class HasTemperature(nn.Module):
    """Mixin for layers whose attention has a temperature, which is saved in the state dict as ``temperature``."""

    temperature_range: ClassVar[TemperatureRange] = SOFTMAX_TEMPERATURE
    """Valid temperatures of the layer, and the schedule of its family's paper."""
    _temperature: _Temperature

    def _set_up_temperature(self, value: float, device: torch.device | str | None) -> None:
        held = torch.tensor(check_temperature(value, self.temperature_range), device=device)
        # A meta tensor does not hold the value.
        self._temperature = _Temperature(torch.tensor(value, device="cpu") if held.is_meta else held)

    @property
    def temperature(self) -> Tensor:
        """Temperature of the attention, a scalar in `temperature_range`; `dynaconv.set_temperature` changes it."""
        return self._temperature.value

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = fn(self.temperature).device
        if device.type != "meta":
            self._temperature.value = self.temperature.to(device)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + _KEY] = self.temperature.clone()

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key = prefix + _KEY
        given = state_dict.pop(key, None)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if given is None:
            missing_keys += [key] if strict else []
            return
        state_dict[key] = given
        if isinstance(given, Tensor) and given.is_meta:
            return
        if not isinstance(given, Tensor) or given.numel() != 1 or float(given) not in self.temperature_range:
            error_msgs.append(f"{key} must hold {str(self.temperature_range).replace('a ', 'one ', 1)}.")
            return
        with torch.no_grad():
            self.temperature.fill_(float(given))


def set_temperature(model: nn.Module, value: float) -> int:
    """Set the temperature of every layer that has one, in place.

    Args:
        model: A network or a layer. `dynaconv.DYConv2d`, `dynaconv.ODConv2d` and the KernelWarehouse layers have a
            temperature. Averages of the model's weights (timm's ModelEmaV3, torch's AveragedModel, Lightning's
            EMAWeightAveraging) share it.
        value: Temperature. DYConv2d and ODConv2d take numbers > 0: large values make the attention uniform, small ones
            concentrate it. KernelWarehouse layers take numbers from 0 to 1: the share of the starting cells.

    Returns:
        Number of layers whose temperature was set.

    Raises:
        ValueError: the value is out of a layer's range, or no layer of the model has a temperature; no layer changes.
        TypeError: ``model`` is not a module.
    """
    check_module(model)
    layers = layers_with_temperature(model)
    if not layers:
        check_temperature(value)
        raise ValueError(
            f"{type(model).__name__} has no layer with a temperature, so there is nothing to set; DYConv2d, ODConv2d "
            f"and the KernelWarehouse layers have one."
        )
    for valid in {layer.temperature_range for layer in layers}:
        check_temperature(value, valid)
    for layer in layers:
        layer.temperature.fill_(float(value))
    return len(layers)


def layers_with_temperature(model: nn.Module) -> list[HasTemperature]:
    """Return the layers of a network that have a temperature."""
    return [module for module in model.modules() if isinstance(module, HasTemperature)]


def has_temperature(module: nn.Module) -> bool:
    """Whether the module itself, not one of its submodules, has a temperature."""
    return isinstance(module, HasTemperature)


def check_temperature(value: object, valid: TemperatureRange = SOFTMAX_TEMPERATURE) -> float:
    """Return ``value`` as a float if it is a number in a range, else raise ValueError."""
    number = as_number(value)
    if number is None or number not in valid:
        raise ValueError(f"temperature must be {valid}; got {received(value)}.")
    return number
