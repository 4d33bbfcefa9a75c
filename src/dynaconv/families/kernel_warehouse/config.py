"""Options of the KernelWarehouse layers."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from dynaconv.errors import received
from dynaconv.families.contract.checks import check_choice, check_divisor
from dynaconv.families.contract.config import BranchConfig
from dynaconv.families.contract.options import option
from dynaconv.families.contract.temperature import TemperatureRange, check_temperature
from dynaconv.families.kernel_warehouse.assignment import check_budget

KernelWarehouseAlgorithm = Literal["auto", "kernel", "grouped"]
TEMPERATURE = TemperatureRange(high=1.0, low_included=True, start=1.0, end=0.0, epochs=20.0)
"""tau falls from 1 to 0 over the first 20 of 300 epochs."""


@dataclass(frozen=True, kw_only=True)
class KernelWarehouseConfig(BranchConfig):
    """Options of the KernelWarehouse layers.

    Raises:
        ValueError: a field is out of range.
    """

    _algorithms = get_args(KernelWarehouseAlgorithm)

    budget: float = option(
        1,
        "Cells per block of the kernels, b: 1/4, 1/2, 1, 2, 3 or 4. 1 keeps the number of kernel weights.",
    )
    out_divisor: int | None = option(
        None,
        "Divisor of the cells' output channels; None: 1, and 2 for budgets below 1. ``cell_outplane_ratio`` is its "
        "inverse.",
    )
    in_divisor: int | None = option(
        None,
        "Divisor of the cells' input channels; None: 1, and 2 for budgets below 1. ``cell_inplane_ratio`` is its "
        "inverse.",
    )
    whole_taps: bool = option(False, "Whether a cell covers all taps of the kernel, in place of one.")
    basis_reduction: int = option(
        1,
        "With more than 1, the logits of other layers' cells are linear in max(cells // basis_reduction, 16) numbers "
        "of each block, which needs fewer parameters. ``nonlocal_basis_ratio`` is its inverse.",
    )
    min_hidden_channels: int = 16
    branch_norm: str = option("batch", "Norm of the hidden units: ``batch``, or ``layer`` with a bias before it.")
    warehouse: str | None = option(
        None,
        "Name of the warehouse: layers of a network with the same name share their cells. None: the layer has cells "
        "of its own. For `convert` also a rule: ``stage``, the default, ``kind`` or ``layer``.",
    )
    start: str = option(
        "exact",
        "Cells of a layer made from a static one: ``exact`` keeps its function, which needs a budget of at least 1; "
        "``least_squares`` approximates its kernel; ``random`` draws the cells anew, to train from scratch.",
    )
    temperature: float = option(
        0.0,
        "Initial temperature tau, 0 to 1: the share of each block that is its starting cell; `set_temperature` "
        "changes it later. It is saved in the state dict and never averaged with the weights.",
    )
    algorithm: str = option(
        "auto",
        "``kernel`` applies W(x) by matrix products, ``grouped`` by one convolution with the batch folded into groups, "
        "``auto`` uses the cost model.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "budget", check_budget(self.budget))
        for name in ("out_divisor", "in_divisor", "basis_reduction"):
            given = getattr(self, name)
            if given is not None or name == "basis_reduction":
                check_divisor(name, given, example=2)
        check_choice("whole_taps", self.whole_taps, (False, True))
        check_choice("branch_norm", self.branch_norm, ("batch", "layer"))
        check_choice("start", self.start, ("exact", "least_squares", "random"))
        if self.warehouse is not None and (not isinstance(self.warehouse, str) or not self.warehouse):
            raise ValueError(
                f"warehouse must be a name, or None for cells of the layer's own; got {received(self.warehouse)}."
            )
        check_temperature(self.temperature, TEMPERATURE)

    @property
    def cutting(self) -> dict[str, Any]:
        """The arguments of `partition` that the options give."""
        divisor = 1 if self.budget >= 1 else 2
        return {
            "budget": self.budget,
            "out_divisor": self.out_divisor or divisor,
            "in_divisor": self.in_divisor or divisor,
            "whole_taps": self.whole_taps,
        }
