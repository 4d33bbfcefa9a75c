"""What an algorithm costs: a small, inspectable model that `algorithm="auto"` asks.

Time is estimated as multiply-adds / rate + numbers moved / bandwidth + operator calls * overhead. The rates of
`DEFAULT_MACHINE` are round numbers held against `benchmarks/algorithms.py`, which reports how often the model picks the
faster algorithm and what a wrong pick costs; it has to rank algorithms, not to predict milliseconds.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from dynaconv.ops.common.exporting import is_exporting


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


def cheapest(costs: Mapping[str, Cost], machine: Machine = DEFAULT_MACHINE) -> str:
    """Name of the algorithm with the least estimated time; the first of equals."""
    # A loop, because `min` with a key cannot be traced by torch.compile once the batch size is symbolic.
    best, least = "", float("inf")
    for name, cost in costs.items():
        seconds = machine.seconds(cost)
        if seconds < least:
            best, least = name, seconds
    return best


def choose(algorithm: str, costs: Callable[[], Mapping[str, Cost]], *, exported: str) -> str:
    """The algorithm that a layer set to ``algorithm`` runs: the one named, or for ``auto`` the cheapest.

    Args:
        algorithm: ``auto`` or a name.
        costs: Gives what each would cost; asked only where that decides.
        exported: What ``auto`` means in an exported graph, whose sizes may be free, so that nothing can be compared.
    """
    if algorithm != "auto":
        return algorithm
    return exported if is_exporting() else cheapest(costs())
