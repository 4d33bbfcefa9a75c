"""What a dynamic network computes on a data set: size, spread and use of every part of its coefficients.

`collect_statistics` runs the network once and answers for every family: how large Lambda, Phi and attention are and how
far they move, by layer and by class; whether all kernels are used; whether gates rest at an end of their range.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dynaconv.analysis.coefficients import (
    LayerCoefficients,
    PartStatistics,
    RunningStatistics,
    visit_coefficients,
)
from dynaconv.analysis.statistics_measures import gate_limit, measure, normalised_entropy, role_of
from dynaconv.families.family import Role

if TYPE_CHECKING:
    from rich.table import Table

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Levels of the quantiles that are kept."""
KEPT_VALUES = 2**15
"""Values of a part that the quantiles are taken from; a uniform sample where there are more."""
KEPT_SAMPLES = 1024
"""Samples whose attention is kept as it is."""
UNUSED = 0.1
"""A kernel with less than this of an equal share of the weight, on average, is unused."""
SUM_ONE = 1e-3
"""Attention whose sum stays within this of 1 is a distribution over the kernels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PartReport:
    """One part of a layer's coefficients over a data set.

    Attributes:
        values: Statistics of each element.
        role: How the part acts.
        measures: Statistics of what `statistics_measures.measure` finds for each sample.
        quantiles: At `LEVELS`, over all samples and elements together, (5,).
        limit: Upper end of a gate's range; None where there is none.
    """

    values: PartStatistics
    role: Role
    measures: Mapping[str, PartStatistics]
    quantiles: Tensor
    limit: float | None

    @property
    def mean(self) -> float:
        """Over samples and elements."""
        return float(self.values.mean.mean())

    @property
    def deviation(self) -> float:
        """Standard deviation over the samples, root mean square over the elements."""
        return float(self.values.deviation.square().mean().sqrt())

    @property
    def minimum(self) -> float:
        """Over samples and elements."""
        return float(self.values.minimum.min())

    @property
    def maximum(self) -> float:
        """Over samples and elements."""
        return float(self.values.maximum.max())

    @property
    def still(self) -> bool:
        """Whether nothing moves with the input but by rounding: the layer works as a static one in this part."""
        return not float(self.values.deviation.square().sum()) > 1e-12 * float(self.values.mean.square().sum())

    def average(self, name: str) -> float:
        """A measure's mean over the samples; for a vector also over its elements."""
        return float(self.measures[name].mean.mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class KernelUse:
    """How a layer spreads its weight over K kernels; entropies are divided by log K, so that they lie in 0 to 1.

    Attributes:
        usage: Share of the weight that each kernel has on average, (K,), of sum 1.
        largest: Share of the samples on which each kernel has the most weight, (K,).
        entropy: Of each sample's shares, averaged: 1 where every kernel always has the same weight.
        usage_entropy: Of `usage`: 1 where all kernels are used alike over the data set.
        binary_entropy: For sigmoids, of each weight as a probability, in bits, averaged; None for a softmax.
    """

    usage: Tensor
    largest: Tensor
    entropy: float
    usage_entropy: float
    binary_entropy: float | None

    @property
    def dependence(self) -> float:
        """`usage_entropy` - `entropy`, 0 to 1: what the input says about which kernel has the weight.

        It is the mutual information between the input and a kernel drawn by its shares, over log K. 0 where attention
        is the same for every input, 1 where each input has one kernel and all kernels are used alike.
        """
        return max(self.usage_entropy - self.entropy, 0.0)

    @property
    def effective_kernels(self) -> float:
        """exp of the entropy of `usage`: K where all kernels are used alike, 1 where a single one has all."""
        return float(len(self.usage) ** self.usage_entropy)

    @property
    def unused(self) -> tuple[int, ...]:
        """Kernels, from 0, with less than a tenth of an equal share of the weight."""
        return tuple(torch.nonzero(self.usage < UNUSED / len(self.usage)).flatten().tolist())


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerStatistics:
    """The statistics of one dynamic layer.

    Attributes:
        name: Dotted path in the model.
        kind: Class name.
        parts: By the names of the layer's `coefficients` tuple.
        samples: Attention of the first samples, at most `KEPT_SAMPLES`, (N, K), for layers that mix kernels; else None.
    """

    name: str
    kind: str
    parts: Mapping[str, PartReport]
    samples: Tensor | None

    @property
    def coefficients(self) -> LayerCoefficients:
        """The same layer as `collect_coefficients` gives it."""
        return LayerCoefficients(
            name=self.name, kind=self.kind, parts={name: part.values for name, part in self.parts.items()}
        )

    @property
    def kernels(self) -> KernelUse | None:
        """How kernels are used, for layers that mix several; else None."""
        part = next((part for part in self.parts.values() if part.role == "mixing"), None)
        if part is None:
            return None
        usage, total = part.measures["share"].mean, part.measures["total"]
        is_distribution = max(abs(float(total.minimum) - 1), abs(float(total.maximum) - 1)) <= SUM_ONE
        return KernelUse(
            usage=usage,
            largest=part.measures["largest"].mean,
            entropy=part.average("entropy"),
            usage_entropy=float(normalised_entropy(usage)),
            binary_entropy=None
            if is_distribution or "binary_entropy" not in part.measures
            else part.average("binary_entropy"),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkStatistics:
    """The statistics of a network's dynamic layers, in the order the network runs them.

    Attributes:
        layers: One entry a layer.
        class_names: One for each class.
        images: How many were seen.
    """

    layers: tuple[LayerStatistics, ...]
    class_names: tuple[str, ...]
    images: int

    def table(self) -> Table:
        """One row for each part of each layer, for a console."""
        from dynaconv.analysis.statistics_table import rich_table

        return rich_table(self)

    def rows(self) -> list[dict[str, Any]]:
        """One row for each layer, part and class, and one for all classes, as a CSV table takes them."""
        from dynaconv.analysis.statistics_table import class_rows

        return class_rows(self)

    def to_csv(self) -> str:
        """`rows` as CSV, with a header."""
        from dynaconv.analysis.statistics_table import csv_text

        return csv_text(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        from dynaconv.analysis.statistics_table import plain

        return plain(self)


def collect_statistics(
    model: nn.Module,
    batches: Iterable[Any],
    class_names: Sequence[str],
    *,
    max_batches: int | None = None,
) -> NetworkStatistics:
    """Statistics of everything the dynamic layers compute, in one pass in eval mode; the model is left as it was.

    Memory does not grow with the data. Means, deviations and extremes are exact; quantiles are those of `KEPT_VALUES`
    values drawn uniformly from all.

    Args:
        model: Any network with layers that answer `coefficients(x)`.
        batches: Pairs (images (B, C, H, W), classes (B,)).
        class_names: One for each class.
        max_batches: Stop after so many; None for all.

    Raises:
        ValueError: The model has no dynamic layer, there is no batch, or a label has no name.
    """
    running: dict[nn.Module, dict[str, _RunningPart]] = {}

    def add(module: nn.Module, parts: Mapping[str, Tensor], classes: Tensor) -> None:
        found = running.setdefault(module, {})
        for name, values in parts.items():
            if name not in found:
                found[name] = _RunningPart(role_of(name, module, values), gate_limit(module, name), len(class_names))
            found[name].add(values, classes)

    names = visit_coefficients(model, batches, add, num_classes=len(class_names), max_batches=max_batches)
    layers = tuple(
        LayerStatistics(
            name=names[module],
            kind=type(module).__name__,
            parts={name: part.result() for name, part in parts.items()},
            samples=next((torch.cat(part.samples) for part in parts.values() if part.role == "mixing"), None),
        )
        for module, parts in running.items()
    )
    first = next(iter(layers[0].parts.values()))
    return NetworkStatistics(layers=layers, class_names=tuple(class_names), images=int(first.values.counts.sum()))


@dataclass
class _RunningPart:
    """One part as the batches come in."""

    role: Role
    limit: float | None
    num_classes: int
    statistics: dict[str, RunningStatistics] = field(default_factory=dict)
    samples: list[Tensor] = field(default_factory=list)
    pool: _Pool = field(default_factory=lambda: _Pool(KEPT_VALUES))

    def add(self, values: Tensor, classes: Tensor) -> None:
        for name, numbers in {"": values, **measure(values, self.role, self.limit)}.items():
            if name not in self.statistics:
                self.statistics[name] = RunningStatistics.empty(self.num_classes, numbers)
            self.statistics[name].add(numbers, classes)
        self.pool.add(values)
        if self.role == "mixing":
            room = KEPT_SAMPLES - sum(map(len, self.samples))
            self.samples.append(values[:room].cpu())

    def result(self) -> PartReport:
        results = {name: running.result() for name, running in self.statistics.items()}
        # A measure that some batches lack, as sigmoids outside 0 to 1 would, says nothing about the data set.
        complete = {
            name: found for name, found in results.items() if name and found.counts.sum() == results[""].counts.sum()
        }
        levels = torch.tensor(LEVELS, dtype=torch.float64)
        return PartReport(
            values=results[""],
            role=self.role,
            measures=complete,
            quantiles=torch.quantile(self.pool.values, levels),
            limit=self.limit,
        )


class _Pool:
    """A uniform sample of all values that came in: each draws a number, and those with the smallest stay."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.values = torch.empty(0, dtype=torch.float64)
        self._draws = torch.empty(0)
        self._generator = torch.Generator().manual_seed(0)

    def add(self, values: Tensor) -> None:
        flat = values.detach().flatten().double().cpu()
        draws = torch.rand(len(flat), generator=self._generator)
        self.values = torch.cat([self.values, flat])
        self._draws = torch.cat([self._draws, draws])
        if len(self.values) > self.size:
            kept = self._draws.topk(self.size, largest=False).indices
            self.values, self._draws = self.values[kept], self._draws[kept]
