"""The computation of KernelWarehouse layers, convolutions and linear maps, trainable or deployed."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from dynaconv.families.contract.affine import add_bias
from dynaconv.families.contract.checks import check_real
from dynaconv.families.contract.convolution import DynamicConvolution
from dynaconv.families.contract.linear import DynamicMap, rows_of
from dynaconv.families.contract.operator import DynamicOperator
from dynaconv.families.kernel_warehouse.assembly import cut, join_blocks
from dynaconv.families.kernel_warehouse.assignment import Slot, starting_cells
from dynaconv.families.kernel_warehouse.attention import (
    KernelWarehouseCoefficients,
    start_table,
    warehouse_attention,
)
from dynaconv.families.kernel_warehouse.cost import kernel_warehouse_costs
from dynaconv.families.kernel_warehouse.warehouse import UsesWarehouse
from dynaconv.ops import Cost, full_precision
from dynaconv.ops.per_sample import grouped_kernel, matmul_per_sample


class KernelWarehouseOperator(UsesWarehouse, DynamicOperator):
    """Mixin that computes the weights of the cells and the kernel of each sample, for any number of dimensions."""

    slot: Slot
    """The layer's part of the warehouse."""
    budget: float
    """Cells per block."""

    @property
    @abstractmethod
    def kernel_shape(self) -> tuple[int, ...]:
        """Shape of one kernel as its blocks are numbered, ``(C_out, C_in / groups, *k)``; a linear map has k = 1."""

    @abstractmethod
    def _logits(self, context: Tensor, *, track: bool) -> Tensor:
        """Return the logits of the cells, ``(B, M, n + 1)``."""

    @abstractmethod
    def _tau(self) -> Tensor | float:
        """Return the temperature."""

    @property
    def stored_kernel(self) -> Tensor:
        """The cells."""
        return self.warehouse.cells

    @property  # type: ignore[override]
    def weight(self) -> Tensor:
        """The kernel at temperature 1, of the shape that a static layer's ``weight`` has: each block is the cell that
        it starts from, or zero."""
        kernel = join_blocks(self._starting_blocks()[None], self.kernel_shape)[0]
        return kernel.reshape(self._weight_shape)

    @weight.setter
    def weight(self, value: Tensor) -> None:
        if self.budget < 1:
            raise ValueError(f"budget={self.budget:g} has fewer numbers than a kernel, so `weight` cannot be set.")
        cells = self.warehouse.cells
        with torch.no_grad():
            cells[self._starting_cells()] = cut(value.reshape(self.kernel_shape).to(cells), cells.shape[1:])

    @property
    def _weight_shape(self) -> tuple[int, ...]:
        return self.kernel_shape

    def _starting_blocks(self) -> Tensor:
        cells, start = self.warehouse.cells, self._starting_cells()
        if self.budget >= 1:
            return cells[start]
        return torch.cat((cells, cells.new_zeros(1, *cells.shape[1:])))[start]

    def _starting_cells(self) -> Tensor:
        """Return the cell from which each block starts, ``(M,)``; n means the null cell."""
        return starting_cells(self.slot, self.budget, self.warehouse.num_cells, self.warehouse.cells.device)

    def _start_table(self) -> Tensor:
        """Return beta, ``(M, n)``."""
        return start_table(self._starting_cells(), self.warehouse.num_cells)

    def _attention(self, context: Tensor, *, track: bool) -> Tensor:
        with full_precision(context.device):
            logits = self._logits(context, track=track)
        return warehouse_attention(logits, self._start_table, self._tau())

    def coefficients(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> KernelWarehouseCoefficients:
        """The weights of the cells for each block and each sample of ``x``, ``(B, M, n)``."""
        context = self._context(x, *self._checked(x, context, mask))
        return KernelWarehouseCoefficients(self._attention(context, track=False))

    def kernel(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """W(x) of each sample, with the shape of a static layer's ``weight``."""
        kernels: Tensor = self.warehouse(self.coefficients(x, context, mask).attention, self.kernel_shape)
        return kernels.reshape(-1, *self._weight_shape)


class KernelWarehouseConvolution(KernelWarehouseOperator, DynamicConvolution):
    """Mixin for convolutions."""

    _functions: ClassVar = {"kernel": matmul_per_sample, "grouped": grouped_kernel}

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """``(C_out, C_in / groups, *k)``."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    def _compute(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return add_bias(self._convolved(*self._averaged(x, context, mask)), self.bias)

    def _convolved(self, x: Tensor, context: Tensor) -> Tensor:
        """Return the output before the bias is added, for the input of the branch, ``(B, F)``."""
        kernel = self.warehouse(self._attention(context, track=True), self.kernel_shape)
        padded = self._padded(x)
        return self._function(padded)(padded, kernel, self.geometry)

    def _costs_of(self, padded: tuple[int, ...]) -> dict[str, Cost]:
        return kernel_warehouse_costs(self.geometry, padded, self.out_channels, self.warehouse.num_cells)

    def extra_repr(self) -> str:
        """The convolution's arguments, and the layer's part of the warehouse."""
        return f"{super().extra_repr()}, {_of_warehouse(self)}"


class KernelWarehouseMap(KernelWarehouseOperator, DynamicMap):
    """Mixin for linear maps of tokens, ``(B, ..., in_features)``, each sample with its own matrix."""

    @property
    def algorithms(self) -> tuple[str, ...]:
        """``kernel`` alone."""
        return ("kernel",)

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """``(out_features, in_features, 1)``."""
        return (self.out_features, self.in_features, 1)

    @property
    def _weight_shape(self) -> tuple[int, ...]:
        return (self.out_features, self.in_features)

    def _choose(self, x: Tensor) -> str:
        return "kernel"

    def algorithm_costs(self, input_shape: Sequence[int]) -> dict[str, Cost]:
        """Return the cost for an input ``(B, ..., in_features)``."""
        batch, weights = input_shape[0], self.in_features * self.out_features
        tokens = math.prod(input_shape[:-1])
        forming = Cost(dense=batch * self.warehouse.num_cells * weights, moved=4.0 * batch * weights, calls=2)
        return {"kernel": forming + Cost(batched=tokens * weights, calls=1)}

    def _check_input(self, x: Tensor) -> None:
        check_real(x)
        if x.dim() < 2 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"{type(self).__name__} takes (batch, ..., {self.in_features}), the last axis being in_features; got "
                f"an input {tuple(x.shape)}."
            )

    def _compute(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        out = self._mapped(x, self._context(x, context, mask))
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def _mapped(self, x: Tensor, context: Tensor) -> Tensor:
        """Return the output before the bias is added, for the input of the branch, ``(B, F)``."""
        kernel = self.warehouse(self._attention(context, track=True), self.kernel_shape)[..., 0]
        return torch.bmm(rows_of(x), kernel.transpose(1, 2)).reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Sizes of the layer, and its part of the warehouse."""
        return f"{super().extra_repr()}, {_of_warehouse(self)}"


def _of_warehouse(layer: KernelWarehouseOperator) -> str:
    cells, slot = layer.warehouse.num_cells, layer.slot
    return f"blocks={slot.blocks}, own cells {slot.first} to {slot.first + slot.own - 1} of {cells}"
