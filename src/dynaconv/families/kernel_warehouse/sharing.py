"""Gives layers of a network their places in shared warehouses."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dynaconv.errors import received
from dynaconv.families.contract.layer import DynamicLayer
from dynaconv.families.kernel_warehouse.assignment import Partition, partition
from dynaconv.families.kernel_warehouse.config import KernelWarehouseConfig
from dynaconv.families.kernel_warehouse.layer import KernelWarehouseLayer
from dynaconv.families.kernel_warehouse.start import fit_cells
from dynaconv.families.kernel_warehouse.warehouse import Warehouse


def share_cells(layers: Sequence[KernelWarehouseLayer], name: str = "shared") -> Warehouse:
    """Make layers share the cells of one warehouse, in place.

    Each layer gets new cells and a new branch. A layer that is neutral, because it was made from a static layer, keeps
    its kernel. Call this before the layers are trained and before the optimiser is created.

    Args:
        layers: KernelWarehouse layers with the same cutting options, in the order of the network's modules. The first
            one owns the warehouse as a submodule.
        name: Name of the warehouse, unique in the network, by which a record of the conversion rebuilds it.

    Returns:
        The warehouse.

    Raises:
        ValueError: the layers have other options, dtypes or dimensions, or their kernels cannot be cut into common
            blocks; the layers are then unchanged.
        TypeError: a layer is not one of KernelWarehouse, or the name is not a string.
    """
    parts = _common_partition(layers, name)
    first, config = layers[0], layers[0].config
    neutral = [not layer.warehouse.cells.is_meta and layer.branch.is_neutral for layer in layers]
    kernels = [
        layer._static_value("weight").reshape(layer.kernel_shape)
        if layer.static_kernel is None and neutral[number]
        else layer.static_kernel
        for number, layer in enumerate(layers)
    ]
    cells = first.warehouse.cells
    warehouse = Warehouse(parts, cells.device, cells.dtype)
    warehouse.cells.requires_grad_(any(layer.warehouse.cells.requires_grad for layer in layers))
    given = [kernel for kernel in kernels if kernel is not None]
    fits = config.start == "least_squares" and len(given) == len(layers) and not cells.is_meta
    logits: Sequence[torch.Tensor | None] = [None] * len(layers)
    if fits:
        fitted, logits, _ = fit_cells(given, parts)
        with torch.no_grad():
            warehouse.cells.copy_(fitted)
    for number, layer in enumerate(layers):
        layer.place(warehouse, parts.slots[number], owner=number == 0)
        layer.branch.reset_parameters()
        layer.config = dataclasses.replace(layer.config, warehouse=name)
        layer.static_kernel, layer.fitted_logits = None, logits[number]
        kernel = kernels[number]
        if kernel is not None and config.start != "least_squares":
            layer.set_own_cells(kernel)
        if neutral[number]:
            layer._neutralise()
    return warehouse


def join_named(layers: Sequence[DynamicLayer]) -> None:
    """Make the layers whose option ``warehouse`` has the same value share their cells, in place.

    Raises:
        ValueError: as for `share_cells`; no layer changes.
    """
    found: dict[str, list[KernelWarehouseLayer]] = {}
    for layer in layers:
        if isinstance(layer, KernelWarehouseLayer) and layer.config.warehouse is not None:
            found.setdefault(layer.config.warehouse, []).append(layer)
    for name, members in found.items():
        _common_partition(members, name)
    for name, members in found.items():
        share_cells(members, name)


def fitting_errors(options: Mapping[str, Mapping[str, Any]], kernels: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the relative error of each kernel, |W' - W| / |W|, for the layers that start from a least-squares fit.

    Args:
        options: Options of each layer by name, in the order of the network's modules.
        kernels: Static kernels by name; those of linear layers are matrices.
    """
    kernels = {name: kernel if kernel.dim() > 2 else kernel[..., None] for name, kernel in kernels.items()}
    warehouses: dict[str, list[str]] = {}
    for name, given in options.items():
        if given.get("start") == "least_squares":
            warehouses.setdefault(given.get("warehouse") or f"alone {name}", []).append(name)
    errors: dict[str, float] = {}
    for names in warehouses.values():
        config = KernelWarehouseConfig(**options[names[0]])
        parts = partition([kernels[name].shape for name in names], **config.cutting)
        errors |= dict(zip(names, fit_cells([kernels[name] for name in names], parts)[2], strict=True))
    return errors


def _common_partition(layers: Sequence[KernelWarehouseLayer], name: str) -> Partition:
    """Return how the layers' kernels are cut.

    Raises:
        ValueError: they cannot share cells.
        TypeError: a layer is not one of KernelWarehouse.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"`name` must be the name of the warehouse; got {received(name)}.")
    if not isinstance(layers, Sequence):
        raise TypeError(f"`layers` must be a list of KernelWarehouse layers; got {type(layers).__name__}.")
    if not layers:
        raise ValueError("share_cells needs at least one layer; got none.")
    for layer in layers:
        if not isinstance(layer, KernelWarehouseLayer):
            raise TypeError(f"share_cells takes KernelWarehouse layers; got {type(layer).__name__}.")
    if len(set(map(id, layers))) < len(layers):
        raise ValueError("share_cells takes each layer once; got a layer twice.")
    first = layers[0]
    for layer in layers[1:]:
        pairs = [(key, first.config.cutting[key], value) for key, value in layer.config.cutting.items()]
        pairs += [("start", first.config.start, layer.config.start)]
        pairs += [("dtype", first.warehouse.cells.dtype, layer.warehouse.cells.dtype)]
        pairs += [("device", first.warehouse.cells.device, layer.warehouse.cells.device)]
        pairs += [("number of kernel axes", len(first.kernel_shape), len(layer.kernel_shape))]
        for key, one, other in pairs:
            if one != other:
                raise ValueError(
                    f"the layers of the warehouse {name!r} differ in {key}, {one} and {other}; give all layers of a "
                    f"warehouse the same."
                )
    try:
        return partition([layer.kernel_shape for layer in layers], **first.config.cutting)
    except ValueError as error:
        raise ValueError(f"the warehouse {name!r} cannot serve its {len(layers)} layers: {error}") from error
