"""Cost model of the algorithms, by which `algorithm="auto"` chooses.

The estimated time is multiply-adds / rate + elements moved / bandwidth + operator calls * overhead. The model has to
rank algorithms, not to predict milliseconds. The rates of `DEFAULT_MACHINE` are round numbers, checked by
`benchmarks/algorithms.py`: it reports how often the model chooses the faster algorithm, and the cost of a wrong choice.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch


class Cost(NamedTuple):
    """Operation counts of one forward pass of one algorithm.

    Attributes:
        dense: Multiply-adds of convolutions with a kernel that all samples share.
        batched: Multiply-adds of products with one matrix per sample.
        moved: Tensor elements read or written in addition.
        calls: Operator calls.
    """

    dense: float = 0.0
    batched: float = 0.0
    moved: float = 0.0
    calls: int = 0

    def __add__(self, other: object) -> "Cost":
        if not isinstance(other, Cost):
            return NotImplemented
        return Cost(
            self.dense + other.dense, self.batched + other.batched, self.moved + other.moved, self.calls + other.calls
        )

    @property
    def multiply_adds(self) -> float:
        """Dense and batched multiply-adds together."""
        return self.dense + self.batched


class Machine(NamedTuple):
    """Rates of a machine.

    Attributes:
        dense_rate: Multiply-adds per second of convolutions with a shared kernel.
        batched_rate: Multiply-adds per second of products with one matrix per sample.
        bandwidth: Tensor elements read or written per second.
        overhead: Seconds per operator call.
    """

    dense_rate: float = 60e9
    batched_rate: float = 40e9
    bandwidth: float = 3e9
    overhead: float = 4e-6

    def seconds(self, cost: Cost) -> float:
        """Estimated seconds of ``cost``."""
        arithmetic = cost.dense / self.dense_rate + cost.batched / self.batched_rate
        return arithmetic + cost.moved / self.bandwidth + cost.calls * self.overhead


DEFAULT_MACHINE = Machine()


def cheapest(costs: Mapping[str, Cost], machine: Machine = DEFAULT_MACHINE, *, undecided: str = "") -> str:
    """Return the name of the algorithm with the shortest estimated time, the first one on a tie.

    Args:
        costs: Cost of each algorithm by name.
        machine: Rates that convert costs to seconds.
        undecided: Return value if sizes are symbolic under torch.compile and no algorithm is the cheapest for all
            sizes. A comparison would make the compiler guard on the sizes, and compile again for others.
    """
    seconds = {name: machine.seconds(cost) for name, cost in costs.items()}
    for name, own in seconds.items():
        if all(statically_true(own <= other) for other in seconds.values()):
            return name
    return undecided


def statically_true(condition: bool) -> bool:
    """Whether a condition on sizes holds; for symbolic sizes, whether it is known to hold for all of them.

    The compiler adds no guard on the sizes.
    """
    if not torch.compiler.is_compiling():
        return condition
    # Imported here because it is slow to import and needed only during compilation.
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return bool(statically_known_true(condition))
