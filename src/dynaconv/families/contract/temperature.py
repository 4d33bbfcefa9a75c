"""The temperature of attention. It is part of the training schedule and is set for a whole network by one call."""

import math
import re
import sys
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.families.contract.checks import check_module

_KEY = "temperature"
_AVERAGING_CLASSES = re.compile(r"E[Mm][Aa](?![a-z])|Averag|SWA")
"""Names of classes that average the weights of a network, such as timm's ModelEmaV3 and torch's AveragedModel."""


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

    _temperature: _Temperature

    def _set_up_temperature(self, value: float, device: torch.device | str | None) -> None:
        held = torch.tensor(check_temperature(value), device=device)
        # A meta tensor does not hold the value.
        self._temperature = _Temperature(torch.tensor(value, device="cpu") if held.is_meta else held)

    @property
    def temperature(self) -> Tensor:
        """Divisor of the attention's logits, a scalar > 0. `dynaconv.set_temperature` changes it in place."""
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
        if not isinstance(given, Tensor) or given.numel() != 1 or not 0 < float(given) < math.inf:
            error_msgs.append(f"{key} must hold one positive number.")
            return
        with torch.no_grad():
            self.temperature.fill_(float(given))


def set_temperature(model: nn.Module, value: float) -> int:
    """Set the temperature of every layer that has one, in place.

    Args:
        model: A network or a layer. `dynaconv.DYConv2d` and `dynaconv.ODConv2d` have a temperature. Averages of the
            model's weights (timm's ModelEmaV3, torch's AveragedModel, Lightning's EMAWeightAveraging) share it.
        value: Temperature > 0. Large values make the attention uniform, small ones concentrate it.

    Returns:
        Number of layers whose temperature was set.

    Raises:
        ValueError: the value is not a positive number, or no layer of the model has a temperature.
        TypeError: ``model`` is not a module.
    """
    check_module(model)
    value = check_temperature(value)
    temperatures = [module.temperature for module in model.modules() if isinstance(module, HasTemperature)]
    if not temperatures:
        raise ValueError(
            f"{type(model).__name__} has no layer with a temperature, so there is nothing to set; DYConv2d and "
            f"ODConv2d have one."
        )
    for temperature in temperatures:
        temperature.fill_(value)
    return len(temperatures)


def has_temperature(module: nn.Module) -> bool:
    """Whether the module itself, not one of its submodules, has a temperature."""
    return isinstance(module, HasTemperature)


def check_temperature(value: object) -> float:
    """Return ``value`` as a float if it is a positive number, else raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"temperature must be a positive number; got {value!r}.")
    return float(value)
