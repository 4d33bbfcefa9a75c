"""Sizes of a warehouse, and the cell from which each block of each layer starts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from dynaconv.errors import received

BUDGETS = (0.25, 0.5, 1, 2, 3, 4)
"""Numbers of cells for each block of the layers."""


@dataclass(frozen=True)
class Slot:
    """The part of one layer in a warehouse.

    Attributes:
        first: Number of the layer's first own cell.
        blocks: M, the number of blocks of the layer's kernel.
        own: Number of the layer's own cells, from which its blocks start.
    """

    first: int
    blocks: int
    own: int


@dataclass(frozen=True)
class Partition:
    """How the kernels of several layers are cut into blocks, and the cells of their warehouse.

    Attributes:
        cell: Shape of a cell and of a block, ``(c_o, c_i, *taps)``.
        num_cells: n.
        slots: One slot for each layer.
    """

    cell: tuple[int, ...]
    num_cells: int
    slots: tuple[Slot, ...]


def check_budget(budget: object) -> float:
    """Return a budget as a number of `BUDGETS`.

    Raises:
        ValueError: it is not one of them; the message names the nearest.
    """
    number = None if isinstance(budget, bool) or not isinstance(budget, int | float | Fraction) else float(budget)
    if number in BUDGETS:
        return next(known for known in BUDGETS if known == number)
    known = ", ".join(map(_fraction, BUDGETS))
    near = "" if number is None or not math.isfinite(number) else f", and the nearest is {_fraction(_nearest(number))}"
    raise ValueError(f"budget must be one of {known}; got {received(budget)}{near}.")


def partition(
    shapes: Sequence[Sequence[int]],
    budget: float,
    *,
    out_divisor: int = 1,
    in_divisor: int = 1,
    whole_taps: bool = False,
) -> Partition:
    """Cut kernels into blocks of one shape and deal out the cells, layer by layer.

    A cell has the greatest common divisor of the layers' C_out, divided by ``out_divisor``, as output channels, in the
    same way the greatest common divisor of C_in / groups as input channels, and one tap, or all taps of the kernels.

    Args:
        shapes: Kernel shapes of the layers, ``(C_out, C_in / groups, *k)``, in the order of the network's modules.
        budget: Cells per block, one of `BUDGETS`.
        out_divisor, in_divisor: Divisors of the cells' channels.
        whole_taps: Whether a cell covers all taps.

    Raises:
        ValueError: the kernels cannot be cut into such blocks, or the budget does not fit their number.
    """
    common = [math.gcd(*(shape[axis] for shape in shapes)) for axis in (0, 1)]
    c_o, c_i = max(common[0] // out_divisor, 1), max(common[1] // in_divisor, 1)
    sizes = [tuple(shape[2:]) for shape in shapes]
    if whole_taps and len(set(sizes)) > 1:
        found = " and ".join("x".join(map(str, size)) for size in sorted(set(sizes)))
        raise ValueError(f"whole_taps=True needs layers of one kernel size; got {found}. Use whole_taps=False.")
    taps = sizes[0] if whole_taps else (1,) * len(sizes[0])
    for option, cell, greatest in (("out_divisor", c_o, common[0]), ("in_divisor", c_i, common[1])):
        if greatest % cell:
            divisors = ", ".join(str(d) for d in range(1, greatest + 1) if greatest % d == 0)
            raise ValueError(
                f"cells of {cell} channels do not divide the {greatest} channels that the kernels have in common; use "
                f"an {option} of {divisors}."
            )
    blocks = [shape[0] // c_o * (shape[1] // c_i) * math.prod(shape[2:]) // math.prod(taps) for shape in shapes]
    num_cells = max(int(budget * sum(blocks)), 1)
    slots, cursor = [], 0
    for count in blocks:
        own = count * int(budget) if budget >= 1 else len(_diagonal(count, budget))
        slots.append(Slot(cursor, count, own))
        cursor += own
    if cursor != num_cells:
        raise ValueError(
            f"budget={_fraction(budget)} does not fit layers of {', '.join(map(str, blocks))} blocks: {cursor} of them "
            f"start from a cell, and there are {num_cells} cells. Use budget=1, or an in_divisor or out_divisor for "
            f"which each layer has a multiple of {round(1 / budget)} blocks."
        )
    return Partition((c_o, c_i, *taps), num_cells, tuple(slots))


def starting_cells(slot: Slot, budget: float, null: int, device: torch.device | None = None) -> Tensor:
    """Return the cell from which each block of a layer starts, ``(M,)``; ``null`` for those that start from none.

    With budgets of at least 1, block m starts from the cell first + m * budget. Otherwise one block of each run of
    1 / budget has a cell, on a diagonal: block m if m mod q = (m div q) mod q, with q = 1 / budget.
    """
    block = torch.arange(slot.blocks, device=device)
    if budget >= 1:
        return slot.first + block * int(budget)
    run = round(1 / budget)
    has_cell = block % run == block // run % run
    return torch.where(has_cell, slot.first + has_cell.cumsum(0) - 1, null)


def _diagonal(blocks: int, budget: float) -> list[int]:
    """Return the blocks that start from a cell."""
    run = round(1 / budget)
    return [block for block in range(blocks) if block % run == block // run % run]


def _nearest(number: float) -> float:
    return min(BUDGETS, key=lambda known: abs(known - number))


def _fraction(budget: float) -> str:
    return str(Fraction(budget).limit_denominator(64))
