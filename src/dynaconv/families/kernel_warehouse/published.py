"""State-dict keys and options of the KernelWarehouse layers in the published code."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dynaconv.errors import received
from dynaconv.families.contract.checks import check_choice
from dynaconv.families.contract.temperature import set_temperature
from dynaconv.families.kernel_warehouse.layer import (
    KernelWarehouseConv1d,
    KernelWarehouseConv2d,
    KernelWarehouseConv3d,
    KernelWarehouseLayer,
    KernelWarehouseLinear,
)
from dynaconv.families.kernel_warehouse.sharing import join_named

CELLS = "warehouse_manager.weights."
"""Published key of the cells of warehouse 0, 1, ..., without the number."""
_OUR_CELLS = "warehouse.cells"
STEMS = {
    "attention.fc1.": "branch.squeeze.",
    "attention.norm1.": "branch.norm.",
    "attention.fc2.": "branch.heads.attention.",
    "attention.fc3.": "branch.basis.",
    "attention.basis_bias": "branch.constant",
}
"""Maps the published name of a layer's part to our key."""
_ROUNDING = 1e-6
"""Largest relative error of a ratio that was written as a decimal number."""
_CONVOLUTIONS: dict[str, Any] = {
    "conv1d": KernelWarehouseConv1d,
    "conv2d": KernelWarehouseConv2d,
    "conv3d": KernelWarehouseConv3d,
}
_GEOMETRY = ("stride", "padding", "dilation", "groups", "bias")
_NAMES = ("name", "in_planes", "out_planes", "kernel_size", *_GEOMETRY, "layer_type", "warehouse_name")
"""Arguments of a published layer."""
_MANAGER = {
    "reduction": 1 / 16,
    "cell_num_ratio": 1,
    "cell_inplane_ratio": 1,
    "cell_outplane_ratio": 1,
    "nonlocal_basis_ratio": 1,
    "spatial_partition": True,
    "sharing_range": (),
}
"""Arguments of the published warehouse manager; which layers share follows from ``cells``."""


def published_name(key: str) -> str:
    """Return the published name of a layer's tensor, such as ``attention.fc1.weight`` for ``branch.squeeze.weight``."""
    for stem, ours in STEMS.items():
        if key.startswith(ours):
            return stem + key.removeprefix(ours)
    return key


def published_cells(layers: Mapping[str, nn.Module], keys: Iterable[str]) -> dict[tuple[str, str], str]:
    """Return the published key of the cells of each warehouse, by the name of the layer that owns it and our key.

    The published code numbers warehouses in the order in which the network's layers first use them.
    """
    known = set(keys)
    owners = [name for name in layers if f"{name}.{_OUR_CELLS}" in known]
    return {(name, _OUR_CELLS): f"{CELLS}{number}" for number, name in enumerate(owners)}


def published_name_in(layer: nn.Module, key: str, network: str | None) -> str:
    """Return the published name of a layer's tensor; those of a linear layer belong to a part ``conv``."""
    name = published_name(key)
    return f"conv.{name}" if isinstance(layer, KernelWarehouseLinear) else name


def our_name(key: str) -> str:
    """Return our key of a layer's tensor for its published name.

    Raises:
        ValueError: the key does not belong to a published KernelWarehouse layer.
    """
    for stem, ours in STEMS.items():
        if key.startswith(stem):
            return ours + key.removeprefix(stem)
    if key == "bias":
        return key
    known = ", ".join([*(stem.rstrip(".") for stem in STEMS), "bias"])
    raise ValueError(f"{key!r} is not a key of a published KernelWarehouse layer; its parts are {known}.")


def published_layers(
    layers: Sequence[Mapping[str, Any]],
    manager: Mapping[str, Any],
    cells: Mapping[str, Mapping[str, Any]],
    norm: str,
    **options: Any,
) -> dict[str, KernelWarehouseLayer]:
    """Return layers of the published code by name, for the arguments of their constructors.

    Args:
        layers: Arguments of each layer, in the order of registration.
        manager: Arguments of the warehouse manager.
        cells: The number of the warehouse of each layer, as ``warehouse``.
        norm: Class of the branch's norm, ``BatchNorm1d`` or ``LayerNorm``.
        options: Further options of every layer.

    Raises:
        ValueError: an argument is unknown or missing, or its value is not supported.
    """
    given = {**_MANAGER, **manager}
    _check_names("manager", manager, _MANAGER)
    check_choice("norm", norm, ("BatchNorm1d", "LayerNorm"))
    common: dict[str, Any] = {
        "budget": given["cell_num_ratio"],
        "in_divisor": _divisor("cell_inplane_ratio", given),
        "out_divisor": _divisor("cell_outplane_ratio", given),
        "reduction": _divisor("reduction", given),
        "basis_reduction": _divisor("nonlocal_basis_ratio", given),
        "branch_norm": "layer" if norm == "LayerNorm" else "batch",
        **options,
    }
    built = {}
    for layer in layers:
        _check_names("layer", layer, _NAMES, needed=("name", "in_planes", "out_planes"))
        name = layer["name"]
        if name not in cells:
            raise ValueError(f"cells must name the warehouse of each layer; that of {name!r} is missing")
        named = {**common, "warehouse": _warehouse_name(cells[name]["warehouse"])}
        built[name] = _published_layer(layer, named, whole_taps=not given["spatial_partition"])
    join_named(list(built.values()))
    return built


def _published_layer(given: Mapping[str, Any], options: dict[str, Any], *, whole_taps: bool) -> KernelWarehouseLayer:
    kind = given.get("layer_type", "conv2d")
    check_choice("layer_type", kind, (*_CONVOLUTIONS, "linear"))
    if kind == "linear":
        return KernelWarehouseLinear(given["in_planes"], given["out_planes"], given.get("bias", True), **options)
    arguments = {key: _as_size(given[key]) for key in _GEOMETRY if key in given}
    size = _as_size(given.get("kernel_size", 1))
    layer: KernelWarehouseLayer = _CONVOLUTIONS[kind](
        given["in_planes"], given["out_planes"], size, **arguments, **options, whole_taps=whole_taps
    )
    return layer


def _check_names(what: str, given: Mapping[str, Any], known: Iterable[str], needed: Iterable[str] = ()) -> None:
    """Raise ValueError if an argument is unknown, or one that is needed is missing."""
    wrong = [f"{name} is no argument of a published {what}" for name in given if name not in known]
    wrong += [f"{name} of a {what} is missing" for name in needed if name not in given]
    if wrong:
        raise ValueError(f"{wrong[0]}; it has {', '.join(known)}")


def _divisor(name: str, given: Mapping[str, Any]) -> int:
    """Return the inverse of a ratio."""
    ratio = given[name]
    divisor = round(1 / ratio) if isinstance(ratio, int | float) and 0 < ratio <= 1 else 0
    if not divisor or abs(divisor * ratio - 1) > _ROUNDING:
        raise ValueError(f"{name} must be 1, 1/2, 1/3, ..., the inverse of an integer; got {received(ratio)}")
    return divisor


def _warehouse_name(number: object) -> str:
    return f"warehouse{number}"


def load_published_layers(layers: Mapping[str, KernelWarehouseLayer], state: Mapping[str, Tensor]) -> None:
    """Load the published state of a network of these layers, in place.

    Raises:
        ValueError: a key belongs to none of the layers, or the state lacks a tensor.
        RuntimeError: the shape of a tensor does not fit.
    """
    # The names of submodules hold no dots.
    names = {name: name.replace(".", "/") for name in layers}
    owners = {layer.config.warehouse: names[name] for name, layer in layers.items() if layer.owns_warehouse}
    network, ours = nn.ModuleDict({names[name]: layer for name, layer in layers.items()}), {}
    for key, tensor in state.items():
        if key.startswith(CELLS):
            owner = owners.get(_warehouse_name(key.removeprefix(CELLS)))
            if owner is None:
                raise ValueError(f"no layer reads the cells {key!r}; leave them out")
            ours[f"{owner}.{_OUR_CELLS}"] = tensor
            continue
        name = next((name for name in layers if key.startswith(f"{name}.")), "")
        part = key.removeprefix(f"{name}.").removeprefix("conv.") if name else key
        ours[f"{names.get(name, name)}.{our_name(part)}"] = tensor
    missing, unexpected = network.load_state_dict(ours, strict=False)
    missing = [key for key in missing if not key.endswith(("temperature", "num_batches_tracked"))]
    if missing or unexpected:
        raise ValueError(f"the state lacks {missing} and has unknown tensors {unexpected}.")


def published_kernel_warehouse_layer(state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> KernelWarehouseLayer:
    """Return one layer of a published network, which owns the cells that it reads; see `dynaconv.published_layer`."""
    needed = ("layers", "manager", "cells", "norm")
    if missing := [name for name in needed if name not in metadata]:
        raise ValueError(f"it needs the arguments {', '.join(needed)}; {missing[0]} is missing")
    if unknown := sorted(metadata.keys() - {*needed, "layer", "temperature", "warehouses", "seed", "reserve_order"}):
        raise ValueError(f"{unknown[0]} is no argument of it; it has {', '.join(needed)}, layer and temperature")
    layers = published_layers(**{name: metadata[name] for name in needed})
    cells = next((tensor for key, tensor in state.items() if key.startswith(CELLS)), None)
    if cells is None:
        raise ValueError(f"the state has no cells, whose keys are {CELLS}0 and so on")
    # Names such as "0" are numbers in JSON.
    name = str(metadata.get("layer", next(iter(layers)) if len(layers) == 1 else None))
    if name not in layers:
        raise ValueError(f"layer={name!r} names none of the layers {', '.join(layers)}")
    nn.ModuleList(layers.values()).to(device=cells.device, dtype=cells.dtype)
    load_published_layers(layers, state)
    layer = layers[name]
    layer._use_warehouse(layer.warehouse, owner=True)
    set_temperature(layer, metadata.get("temperature", 0.0))
    return layer


def _as_size(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
