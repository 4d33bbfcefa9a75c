"""Names of KernelWarehouse layers' tensors in checkpoints of the published code."""

from collections.abc import Iterable, Mapping

from torch import nn

from dynaconv.families.kernel_warehouse.layer import KernelWarehouseLinear
from dynaconv.families.kernel_warehouse.published import CELLS, published_name

_CELLS = "warehouse.cells"


def is_published_kernel_warehouse(keys: Iterable[str]) -> bool:
    """Whether a state dict holds KernelWarehouse layers under the names of the published code."""
    return any(key.startswith(CELLS) for key in keys)


def published_kernel_warehouse_names(
    layers: Mapping[str, nn.Module], model_keys: Iterable[str]
) -> dict[tuple[str, str], str]:
    """Return the published key of the cells of each warehouse, by the name of the layer that owns it and our key.

    The published code numbers warehouses in the order in which the network's layers first use them.
    """
    keys = set(model_keys)
    owners = [name for name in layers if f"{name}.{_CELLS}" in keys]
    return {(name, _CELLS): f"{CELLS}{number}" for number, name in enumerate(owners)}


def published_kernel_warehouse_name(layer: nn.Module, key: str) -> str:
    """Return the published name of a layer's tensor, such as ``attention.fc1.weight``."""
    name = published_name(key)
    return f"conv.{name}" if isinstance(layer, KernelWarehouseLinear) else name
