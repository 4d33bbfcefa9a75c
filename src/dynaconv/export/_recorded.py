"""Adds what the dynamic layers of a network compute to the network's outputs."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from dynaconv.errors import ExportError
from dynaconv.export.verify import named_outputs
from dynaconv.measure.modules import branch_arguments, is_dynamic

KERNEL = "weight"
"""Name of the kernel W(x) among the outputs of a layer, that of the static kernel in a state dict."""


def record_layers(network: nn.Module, *, coefficients: bool, kernels: bool) -> None:
    """Add the coefficients or kernels of each dynamic layer to the outputs of a network, in place, by hooks.

    The network then returns a dictionary: its own outputs by their names, and ``<layer>.<coefficient>`` or
    ``<layer>.weight``.

    Raises:
        ExportError: The network has no dynamic layer.
    """
    layers = {module: name for name, module in network.named_modules() if is_dynamic(module)}
    if not layers:
        raise ExportError(
            f"{type(network).__name__} has no dynamic layer, so it has no coefficients; leave out `coefficients` and "
            f"`kernels`."
        )
    if network in layers:
        raise ExportError(
            "the network is itself a dynamic layer, whose outputs have no name; put it into an nn.Sequential, or leave "
            "out `coefficients` and `kernels`."
        )
    record = _Record(coefficients, kernels)
    network.register_forward_pre_hook(record.clear)
    for module, name in layers.items():
        module.register_forward_pre_hook(partial(record.add, name), with_kwargs=True)
    network.register_forward_hook(record.join)


class _Record:
    """The tensors that were recorded in the current call of the network, by output name."""

    def __init__(self, coefficients: bool, kernels: bool) -> None:
        self.coefficients, self.kernels = coefficients, kernels
        self.found: dict[str, Tensor] = {}
        self.calls: dict[str, int] = {}

    def clear(self, network: nn.Module, args: Any) -> None:
        self.found, self.calls = {}, {}

    def add(self, name: str, layer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.calls[name] = call = self.calls.get(name, 0) + 1
        own, further = branch_arguments(layer, args, kwargs)
        parts = layer.coefficients(*own, **further)._asdict() if self.coefficients else {}
        if self.kernels:
            parts[KERNEL] = layer.kernel(*own, **further)
        for part, value in parts.items():
            if isinstance(value, Tensor):
                self.found[f"{name}.{part}" + (f".{call}" if call > 1 else "")] = value

    def join(self, network: nn.Module, args: Any, outputs: Any) -> dict[str, Tensor]:
        found, self.found = self.found, {}
        return {**named_outputs(outputs), **found}
