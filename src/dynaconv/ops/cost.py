"""What an algorithm costs: a small, inspectable model that `algorithm="auto"` asks.

Time is estimated as multiply-adds / rate + numbers moved / bandwidth + operator calls * overhead. The rates of
`DEFAULT_MACHINE` are round numbers held against `benchmarks/algorithms.py`, which reports how often the model picks the
faster algorithm and what a wrong pick costs; it has to rank algorithms, not to predict milliseconds.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch


class Cost(NamedTuple):
    """What one forward pass of one algorithm does.

    ``dense`` and ``batched`` are multiply-adds, of shared convolutions and of products with a matrix a sample;
    ``moved`` counts numbers read or written besides, ``calls`` operators started.
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
        """All multiply-adds."""
        return self.dense + self.batched


class Machine(NamedTuple):
    """Rates of a machine, per second: multiply-adds, numbers moved; and seconds to start an operator."""

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
    """Name of the algorithm with the least estimated time; the first of equals.

    Args:
        costs: Of each algorithm.
        machine: Turns costs into seconds.
        undecided: What is returned where sizes are symbols of torch.compile and none is the cheapest for all sizes. A
            comparison would make the compiler guard on them, and compile once more for sizes beyond.
    """
    seconds = {name: machine.seconds(cost) for name, cost in costs.items()}
    for name, own in seconds.items():
        if all(known(own <= other) for other in seconds.values()):
            return name
    return undecided


def known(condition: bool) -> bool:
    """Whether a condition on sizes holds; False where they are symbols and it may not, without a guard on them."""
    if not torch.compiler.is_compiling():
        return condition
    # Slow to import, and only there once something is compiled.
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return bool(statically_known_true(condition))
