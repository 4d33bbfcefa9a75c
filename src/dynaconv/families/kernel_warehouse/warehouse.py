"""The warehouse: cells that several layers share. It is a submodule of the first of them alone."""

import copy
import math
from collections.abc import Sequence
from typing import Any, Self
from weakref import WeakSet

import torch
from torch import Tensor, nn

from dynaconv.families.kernel_warehouse.assembly import assemble
from dynaconv.families.kernel_warehouse.assignment import Partition


class Warehouse(nn.Module):
    """n learnt cells, of which the kernels of one or more layers are put together.

    The first layer of a warehouse in the order of the network's modules has it as its submodule ``warehouse``; the
    others refer to it. So the cells are once in the state dict and among the parameters, and copies, pickles and moves
    of the network keep them shared.

    Args:
        partition: Shape and number of the cells.
        device, dtype: Device and dtype of the cells.
    """

    cells: nn.Parameter
    """``(n, c_o, c_i, *taps)``; a layer's own cells are those from which its blocks start at temperature 1."""

    def __init__(
        self, partition: Partition, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        shape = (partition.num_cells, *partition.cell)
        self.partition = partition
        self.cells = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()

    @property
    def num_cells(self) -> int:
        """n."""
        return self.partition.num_cells

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the cells that a layer owns by the layer's fan-out, normally distributed with variance 2 / fan-out."""
        for slot in self.partition.slots:
            own = self.cells[slot.first : slot.first + slot.own]
            fan_out = slot.own * own.shape[1] * math.prod(own.shape[3:])
            if own.numel():
                nn.init.normal_(own, std=math.sqrt(2 / fan_out))

    def materialise(self, like: Tensor) -> None:
        """Replace cells on the meta device by newly drawn ones with the device and dtype of a tensor."""
        self.cells = nn.Parameter(torch.empty_like(self.cells, device=like.device, dtype=like.dtype))
        self.reset_parameters()

    def forward(self, attention: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the kernels of a layer's samples, ``(B, *shape)``, for the weights of the cells, ``(B, M, n)``."""
        return assemble(attention, self.cells, shape)

    def frozen(self) -> "Warehouse":
        """Return a copy for inference."""
        return copy.deepcopy(self).requires_grad_(False).eval()

    def extra_repr(self) -> str:
        """Number and shape of the cells, and the number of layers."""
        cell = "x".join(map(str, self.partition.cell))
        return f"{self.num_cells} cells of {cell}, layers={len(self.partition.slots)}"


_OWNED_IN_PICKLES: WeakSet[Warehouse] = WeakSet()
"""Unpickled warehouses that are a submodule of a layer."""


class UsesWarehouse(nn.Module):
    """Mixin for layers that read a warehouse, as its owner or as one of its other layers."""

    _warehouse_of_another: tuple[Warehouse, ...]

    @property
    def warehouse(self) -> Warehouse:
        """The cells, which other layers may share."""
        own = self._modules.get("warehouse")
        if isinstance(own, Warehouse):
            return own
        return self._warehouse_of_another[0]

    @property
    def owns_warehouse(self) -> bool:
        """Whether the warehouse is a submodule of this layer."""
        return "warehouse" in self._modules

    def _use_warehouse(self, warehouse: Warehouse, *, owner: bool) -> None:
        """Set the warehouse; the owner has it as a submodule."""
        self._modules.pop("warehouse", None)
        # The tuple keeps it from being registered as a submodule.
        self._warehouse_of_another = () if owner else (warehouse,)
        if owner:
            self._modules["warehouse"] = warehouse

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Copied without the owner, as one layer or a part of a network: the copy then owns the cells' copy.
        alone = not self.owns_warehouse and id(self.warehouse) not in memo
        made: Self = super().__deepcopy__(memo)  # type: ignore[misc]
        if alone:
            made._use_warehouse(made.warehouse, owner=True)
        return made

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        # Pickled without the owner: the first layer then owns the cells, as in `__deepcopy__`.
        if not self.owns_warehouse and self.warehouse not in _OWNED_IN_PICKLES:
            self._use_warehouse(self.warehouse, owner=True)
        _OWNED_IN_PICKLES.add(self.warehouse)

    def _replicate_for_data_parallel(self) -> Self:
        if not self.owns_warehouse:
            raise RuntimeError(
                f"torch.nn.DataParallel cannot replicate a {type(self).__name__} that shares the cells of another "
                f"layer; use torch.nn.parallel.DistributedDataParallel."
            )
        replica: Self = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        return replica
