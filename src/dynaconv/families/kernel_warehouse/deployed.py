"""Deployed forms of the KernelWarehouse layers. Forms of one network share the frozen cells of their warehouses."""

from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.families.contract.affine import frozen_sum, multiply_rows
from dynaconv.families.contract.branch import context_dtype
from dynaconv.families.contract.deployed import AssembledKernel, DeployedConv, DeployedLayer
from dynaconv.families.kernel_warehouse.branch import DeployedKernelWarehouseBranch
from dynaconv.families.kernel_warehouse.core import (
    KernelWarehouseConvolution,
    KernelWarehouseMap,
    KernelWarehouseOperator,
)
from dynaconv.families.kernel_warehouse.warehouse import Warehouse
from dynaconv.ops import over_pixels

Memo = dict[int, Any]
"""Memo of `copy.deepcopy`, in which the forms of one network find the frozen cells of their warehouses."""


class _Deployed(KernelWarehouseOperator, DeployedLayer):
    """Mixin of the deployed forms."""

    branch: DeployedKernelWarehouseBranch
    scale: nn.Parameter | None
    """Factor on each output channel, ``(C_out,)``, of a batch norm that was folded; None: 1. The cells cannot include
    it, because a block covers several channels and several layers share the cells."""

    def _adopt(self, layer: Any, memo: Memo) -> None:
        """Take over the cells, the branch and the temperature of a layer."""
        warehouse = memo.get(id(layer.warehouse))
        owner = warehouse is None
        if not isinstance(warehouse, Warehouse):
            memo[id(layer.warehouse)] = warehouse = layer.warehouse.frozen()
        self._use_warehouse(warehouse, owner=owner)
        self.slot, self.budget, self.temperature = layer.slot, layer.budget, float(layer.temperature)
        self._store_frozen("scale", None)
        self.branch = DeployedKernelWarehouseBranch(layer.branch, layer.context_norm)
        self._adopt_settings(layer)

    def _tau(self) -> float:
        return self.temperature

    def _logits(self, context: Tensor, *, track: bool) -> Tensor:
        return self.branch.logits(context)

    def kernel(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """W(x) of each sample, with the shape of a static layer's ``weight``."""
        kernel = super().kernel(x, context, mask)
        if self.scale is None:
            return kernel
        return kernel * self.scale.reshape(-1, *[1] * (kernel.dim() - 2))

    @torch.no_grad()
    def assembled_kernel(self) -> AssembledKernel:
        """The cells, and the branch that weights them."""
        branch, norm = self.branch, self.branch.norm
        return AssembledKernel(
            cells=self.warehouse.cells,
            branch=branch,
            hidden_norm=None if norm is None else (norm.weight, norm.bias),
            head=branch.whole_head(),
            start=(self.temperature, self._start_table()) if self.temperature else None,
            scale=self.scale,
            bias=self.bias,
        )

    @torch.no_grad()
    def absorb_affine(self, scale: Tensor, shift: Tensor) -> None:
        """Make the layer compute ``scale * forward(x) + shift``; see `DeployedLayer.absorb_affine`."""
        cells = self.warehouse.cells
        ones = cells.new_ones(len(scale), dtype=context_dtype(cells.dtype)) if self.scale is None else self.scale
        self.scale = multiply_rows(ones.to(cells.dtype), scale)
        if self.bias is not None:
            self.bias = multiply_rows(self.bias, scale)
        self.bias = frozen_sum(self.bias, shift, cells)


class DeployedKernelWarehouseConv(_Deployed, KernelWarehouseConvolution, DeployedConv):
    """Deployed form of `KernelWarehouseConv2d`.

    Args:
        layer: The original layer.
        memo: The frozen cells of other forms of the same network.
    """

    def __init__(self, layer: Any, memo: Memo | None = None) -> None:
        super().__init__(layer)
        self._adopt(layer, {} if memo is None else memo)

    def _store_kernel(self, layer: Any) -> None:
        """The cells are stored later."""

    def _convolved(self, x: Tensor, context: Tensor) -> Tensor:
        out = super()._convolved(x, context)
        return out if self.scale is None else out * over_pixels(self.scale.to(out.dtype), self.dims)


class DeployedKernelWarehouseLinear(_Deployed, KernelWarehouseMap):
    """Deployed form of `KernelWarehouseLinear`.

    Args:
        layer: The original layer.
        memo: The frozen cells of other forms of the same network.
    """

    def __init__(self, layer: Any, memo: Memo | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._store_frozen("bias", layer.bias)
        self._adopt(layer, {} if memo is None else memo)

    def _mapped(self, x: Tensor, context: Tensor) -> Tensor:
        out = super()._mapped(x, context)
        return out if self.scale is None else out * self.scale.to(out.dtype)
