"""Which layers of a network share a warehouse: rules for any network, and the published networks."""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from dynaconv.families.contract.checks import check_choice
from dynaconv.families.kernel_warehouse.layer import KernelWarehouseLayer

RULES = ("stage", "kind", "layer")
_SMALLEST_CELL = 8
"""A warehouse takes a layer in if its cells stay at least an eighth as large as one tap of its smallest kernel. Smaller
cells are more, and the branch of each layer grows with the square of their number."""
_STAGE = re.compile(r"(?:.*?\.)??(?:[^.]*\d)(?=\.)")


def warehouse_names(
    model: nn.Module, layers: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the option ``warehouse`` of each layer, for the rule that the option names in `convert`.

    - ``stage``: the convolutions of a stage share their cells, depthwise and grouped ones, linear layers and each
      number of spatial axes apart from the others. A stage is the part of a name up to its first number: ``layer1`` in
      ``layer1.0.conv1``.
    - ``kind``: also 1x1 convolutions apart from others.
    - ``layer``: each layer has cells of its own.

    Layers whose channels have too small a common divisor get a further warehouse. No name is one that layers of the
    model already use.

    Args:
        model: The network.
        layers: The convolutions and linear layers to name warehouses for, by name, in the order of the network's
            modules.
        options: Options of all layers.

    Raises:
        ValueError: the rule is unknown.
    """
    rule = options.get("warehouse", "stage")
    check_choice("warehouse", rule, RULES, where=" in a conversion")
    if rule == "layer":
        return {name: {"warehouse": None} for name in layers}
    taken = {layer.config.warehouse for layer in model.modules() if isinstance(layer, KernelWarehouseLayer)}
    opened: dict[str, list[list[tuple[int, int]]]] = {}
    found: dict[str, dict[str, Any]] = {}
    for name, static in layers.items():
        key = f"{_stage(name)} {_kind(static, apart=rule == 'kind')}"
        while key in taken:
            key += " again"
        warehouses = opened.setdefault(key, [])
        size: tuple[int, int] = tuple(static.weight.shape[:2])
        number = next((i for i, members in enumerate(warehouses) if _fits(size, members)), len(warehouses))
        if number == len(warehouses):
            warehouses.append([])
        warehouses[number].append(size)
        found[name] = {"warehouse": key if number == 0 else f"{key} {number + 1}"}
    return found


def _kind(static: Any, *, apart: bool) -> str:
    """Return the kind of layers with which a layer shares its cells; with ``apart``, 1x1 convolutions are a kind."""
    if isinstance(static, nn.Linear):
        return "linear"
    kind = "dense" if static.groups == 1 else "depthwise" if static.groups == static.in_channels else "grouped"
    if apart and kind == "dense":
        kind = "pointwise" if math.prod(static.kernel_size) == 1 else "spatial"
    dims = len(static.kernel_size)
    return kind if dims == 2 else f"{kind} {dims}d"


def _stage(name: str) -> str:
    match = _STAGE.match(name)
    return name if match is None else match[0]


def _fits(size: tuple[int, int], members: list[tuple[int, int]]) -> bool:
    sizes = [*members, size]
    cell = math.prod(math.gcd(*(one[axis] for one in sizes)) for axis in (0, 1))
    return cell * _SMALLEST_CELL >= min(map(math.prod, sizes))
