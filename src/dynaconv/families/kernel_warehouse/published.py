"""State-dict keys and options of the KernelWarehouse layers in the published code."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dynaconv.families.contract.temperature import set_temperature
from dynaconv.families.kernel_warehouse.layer import KernelWarehouseConv2d, KernelWarehouseLayer, KernelWarehouseLinear
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
        cells: The warehouse of each layer.
        norm: Class of the branch's norm, ``BatchNorm1d`` or ``LayerNorm``.
        options: Further options of every layer.
    """
    common: dict[str, Any] = {
        "budget": manager["cell_num_ratio"],
        "in_divisor": round(1 / manager["cell_inplane_ratio"]),
        "out_divisor": round(1 / manager["cell_outplane_ratio"]),
        "reduction": round(1 / manager["reduction"]),
        "basis_reduction": round(1 / manager["nonlocal_basis_ratio"]),
        "branch_norm": "layer" if norm == "LayerNorm" else "batch",
    }
    built: dict[str, KernelWarehouseLayer] = {}
    for given in layers:
        named = {**common, "warehouse": f"warehouse{cells[given['name']]['warehouse']}"}
        sizes: Any = given["in_planes"], given["out_planes"]
        if given.get("layer_type") == "linear":
            built[given["name"]] = KernelWarehouseLinear(sizes[0], sizes[1], given["bias"], **named, **options)
            continue
        arguments: dict[str, Any] = {
            key: given[key] for key in ("stride", "padding", "dilation", "groups", "bias") if key in given
        }
        taps: dict[str, Any] = {"whole_taps": not manager["spatial_partition"]}
        size = _as_size(given["kernel_size"])
        arguments = {key: _as_size(value) for key, value in arguments.items()}
        built[given["name"]] = KernelWarehouseConv2d(sizes[0], sizes[1], size, **arguments, **named, **taps, **options)
    join_named(list(built.values()))
    return built


def load_published_layers(layers: Mapping[str, KernelWarehouseLayer], state: Mapping[str, Tensor]) -> None:
    """Load the published state of a network of these layers, in place.

    Raises:
        ValueError: a key belongs to none of the layers, or the state lacks a tensor.
    """
    network, ours = nn.ModuleDict(layers), {}
    warehouses: list[str] = []
    for name, layer in layers.items():
        if layer.owns_warehouse:
            warehouses.append(f"{name}.warehouse.cells")
    for key, tensor in state.items():
        if key.startswith(CELLS):
            ours[warehouses[int(key.removeprefix(CELLS))]] = tensor
            continue
        name = next((name for name in layers if key.startswith(f"{name}.")), key)
        ours[f"{name}.{our_name(key.removeprefix(f'{name}.').removeprefix('conv.'))}"] = tensor
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
    cells = next(tensor for key, tensor in state.items() if key.startswith(CELLS))
    nn.ModuleDict(layers).to(device=cells.device, dtype=cells.dtype)
    load_published_layers(layers, state)
    name = metadata.get("layer", next(iter(layers)) if len(layers) == 1 else None)
    if name not in layers:
        raise ValueError(f"layer={name!r} names none of the layers {', '.join(layers)}")
    layer = layers[name]
    layer._use_warehouse(layer.warehouse, owner=True)
    set_temperature(layer, metadata.get("temperature", 0.0))
    return layer


def _as_size(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
