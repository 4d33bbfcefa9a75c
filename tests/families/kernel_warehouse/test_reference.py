"""The reference, by hand, and the assembly against it."""

import math

import pytest
import torch

from dynaconv.families.kernel_warehouse.assembly import assemble, cut, join_blocks
from dynaconv.families.kernel_warehouse.assignment import Slot, partition, starting_cells
from dynaconv.families.kernel_warehouse.attention import start_table, warehouse_attention
from dynaconv.families.kernel_warehouse.core import grouped_kernel
from dynaconv.families.kernel_warehouse.reference import (
    reference_attention,
    reference_kernel,
    reference_kernel_warehouse,
)
from dynaconv.ops import Geometry
from dynaconv.ops.per_sample import matmul_per_sample
from tests.helpers import TOLERANCE, seeded_tensors, value_and_gradients

# Kernel and cell of every number of dimensions, with one tap and with all taps a cell.
SHAPES = [
    ((6, 4), (3, 2)),
    ((6, 4, 3), (3, 2, 1)),
    ((6, 4, 5), (6, 4, 5)),
    ((6, 4, 3, 2), (2, 4, 1, 1)),
    ((4, 1, 3, 3), (2, 1, 1, 1)),
    ((6, 2, 3, 2), (3, 1, 3, 2)),
    ((4, 2, 2, 3, 2), (2, 1, 1, 1, 1)),
]


def test_attention_by_hand() -> None:
    logits = torch.tensor([[[1.0, -2.0, 0.999], [3.0, 0.0, -0.999]]], dtype=torch.float64)
    want = torch.tensor([[[0.25, -0.5], [0.75, 0.0]]], dtype=torch.float64)
    torch.testing.assert_close(reference_attention(logits, 0.0, [0, None]), want)
    want = torch.tensor([[[0.625, -0.25], [0.375, 0.0]]], dtype=torch.float64)
    torch.testing.assert_close(reference_attention(logits, 0.5, [0, None]), want)


def test_kernel_by_hand() -> None:
    """Blocks are numbered by tap, then by output block, then by input block."""
    cells = torch.tensor([1.0, 10.0]).reshape(2, 1, 1, 1, 1)
    attention = torch.stack((torch.arange(8.0), torch.ones(8)), 1)
    kernel = reference_kernel(attention, cells, (2, 2, 1, 2))
    want = 10 + torch.tensor([[[[0.0, 4.0]], [[1.0, 5.0]]], [[[2.0, 6.0]], [[3.0, 7.0]]]])
    torch.testing.assert_close(kernel, want)


@pytest.mark.parametrize(("shape", "cell"), SHAPES, ids=str)
def test_assembly_matches_the_reference(shape: tuple[int, ...], cell: tuple[int, ...]) -> None:
    blocks = math.prod(shape) // math.prod(cell)
    attention, cells = seeded_tensors([(2, blocks, 3), (3, *cell)])
    want = torch.stack([reference_kernel(one, cells, shape) for one in attention])
    got = assemble(attention, cells, shape)
    torch.testing.assert_close(
        value_and_gradients(got, [attention, cells]),
        value_and_gradients(want, [attention, cells]),
        **TOLERANCE["float64"],
    )
    assert torch.equal(join_blocks(torch.stack([cut(kernel, cell) for kernel in got]), shape), got)


@pytest.mark.parametrize("budget", [0.25, 0.5, 1, 3])
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_attention_matches_the_reference(budget: float, temperature: float) -> None:
    parts = partition([(16, 4), (8, 8)], budget, out_divisor=2, in_divisor=2)
    slot = parts.slots[1]
    start = starting_cells(slot, budget, parts.num_cells)
    given = [None if int(cell) == parts.num_cells else int(cell) for cell in start]
    (logits,) = seeded_tensors([(2, slot.blocks, parts.num_cells + 1)])
    want = value_and_gradients(reference_attention(logits, temperature, given), [logits])

    def table() -> torch.Tensor:
        return start_table(start, parts.num_cells)

    for tau in (temperature, torch.tensor(temperature)):
        got = warehouse_attention(logits, table, tau)
        torch.testing.assert_close(value_and_gradients(got, [logits]), want, **TOLERANCE["float64"])


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (3,), (2, 1, 3)], ids=str)
def test_algorithms_match_the_reference(groups: int, size: tuple[int, ...]) -> None:
    dims = len(size)
    geometry = Geometry(size, (2, 1, 1)[:dims], (1, 1, 0)[:dims], (1, 2, 1)[:dims], groups)
    shape = (8, 4 // groups, *size)
    blocks = math.prod(size) * 4
    x, attention, cells = seeded_tensors([(3, 4, *(7, 6, 5)[:dims]), (3, blocks, 5), (5, 2, 4 // groups, *[1] * dims)])
    want = value_and_gradients(reference_kernel_warehouse(x, attention, cells, geometry), [x, attention, cells])
    for algorithm in (matmul_per_sample, grouped_kernel):
        got = algorithm(x, assemble(attention, cells, shape), geometry)
        torch.testing.assert_close(value_and_gradients(got, [x, attention, cells]), want, **TOLERANCE["float64"])


def test_blocks_start_from_cells_on_a_diagonal() -> None:
    slot = Slot(5, 12, 6)
    assert starting_cells(slot, 0.5, 99).tolist() == [5, 99, 99, 6, 7, 99, 99, 8, 9, 99, 99, 10]
    assert starting_cells(Slot(4, 8, 2), 0.25, 99).tolist() == [4, 99, 99, 99, 99, 5, 99, 99]
    assert starting_cells(Slot(6, 3, 6), 2, 99).tolist() == [6, 8, 10]
