"""Statistics of a dynamic network on a data set: size, spread and use of every part of its coefficients.

`collect_statistics` runs the network once and works for every family. It measures the size and the variation of Lambda,
Phi and attention, per layer and class, the use of each kernel, and the share of gates at an end of their range.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dynaconv.explain.coefficients import (
    LayerCoefficients,
    PartStatistics,
    RunningStatistics,
    visit_coefficients,
)
from dynaconv.explain.statistics_measures import gate_limit, measure, normalised_entropy, role_of
from dynaconv.families.family import Role
from dynaconv.files import csv_text

if TYPE_CHECKING:
    from rich.table import Table

QUANTILE_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Levels of the reported quantiles."""
RESERVOIR_SIZE = 2**15
"""Maximum number of values per part for the quantiles; a uniform random sample if there are more."""
MAX_ATTENTION_SAMPLES = 1024
"""Maximum number of samples whose attention is stored."""
UNUSED_FRACTION = 0.1
"""A kernel counts as unused if its mean share of the weight is below this fraction of an equal share, 1 / K."""
SUM_TOLERANCE = 1e-3
"""Attention is a distribution over the kernels if its sum differs from 1 by at most this much."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PartReport:
    """One part of a layer's coefficients over a data set.

    Attributes:
        values: Statistics of each element.
        role: How the part acts.
        measures: Statistics of the per-sample results of `statistics_measures.measure`.
        quantiles: Quantiles at `QUANTILE_LEVELS`, over all samples and elements together, (5,).
        limit: Upper end of a gate's range; None if it has none.
    """

    values: PartStatistics
    role: Role
    measures: Mapping[str, PartStatistics]
    quantiles: Tensor
    limit: float | None

    @property
    def mean(self) -> float:
        """Mean over samples and elements."""
        return float(self.values.mean.mean())

    @property
    def deviation(self) -> float:
        """Standard deviation over the samples, root mean square over the elements."""
        return float(self.values.deviation.square().mean().sqrt())

    @property
    def minimum(self) -> float:
        """Minimum over samples and elements."""
        return float(self.values.minimum.min())

    @property
    def maximum(self) -> float:
        """Maximum over samples and elements."""
        return float(self.values.maximum.max())

    @property
    def still(self) -> bool:
        """Whether the part is constant up to rounding error; the layer is then static in this part."""
        return not float(self.values.deviation.square().sum()) > 1e-12 * float(self.values.mean.square().sum())

    def average(self, name: str) -> float:
        """Return the mean of a measure over the samples and, for a vector, over its elements."""
        return float(self.measures[name].mean.mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class KernelUse:
    """How a layer distributes its weight over K kernels. Entropies are divided by log K and range from 0 to 1.

    Attributes:
        usage: Mean share of the weight of each kernel, (K,), sum 1.
        largest: Share of the samples in which each kernel has the largest weight, (K,).
        entropy: Entropy of a sample's shares, averaged over samples: 1 if all kernels always have the same weight.
        usage_entropy: Entropy of `usage`: 1 if all kernels are used equally over the data set.
        binary_entropy: For sigmoids, the entropy of each weight as a probability, in bits, averaged; None for a
            softmax.
    """

    usage: Tensor
    largest: Tensor
    entropy: float
    usage_entropy: float
    binary_entropy: float | None

    @property
    def dependence(self) -> float:
        """`usage_entropy` - `entropy`, 0 to 1: how much the input determines which kernel has the weight.

        It is the mutual information between the input and a kernel drawn with its share as probability, divided by
        log K. It is 0 if attention is the same for every input, and 1 if each input uses one kernel and all kernels
        are used equally.
        """
        return max(self.usage_entropy - self.entropy, 0.0)

    @property
    def effective_kernels(self) -> float:
        """exp of the entropy of `usage`: K if all kernels are used equally, 1 if one kernel has all the weight."""
        return float(len(self.usage) ** self.usage_entropy)

    @property
    def unused(self) -> tuple[int, ...]:
        """Indices, from 0, of the kernels with less than `UNUSED_FRACTION` of an equal share of the weight."""
        return tuple(torch.nonzero(self.usage < UNUSED_FRACTION / len(self.usage)).flatten().tolist())


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerStatistics:
    """The statistics of one dynamic layer.

    Attributes:
        name: Dotted path in the model.
        kind: Class name.
        parts: Reports by field name of the layer's `coefficients` tuple.
        samples: Attention of the first samples, at most `MAX_ATTENTION_SAMPLES`, (N, K), for layers that mix kernels;
            else None.
    """

    name: str
    kind: str
    parts: Mapping[str, PartReport]
    samples: Tensor | None

    @property
    def coefficients(self) -> LayerCoefficients:
        """The statistics in the format of `collect_coefficients`."""
        return LayerCoefficients(
            name=self.name, kind=self.kind, parts={name: part.values for name, part in self.parts.items()}
        )

    @property
    def kernels(self) -> KernelUse | None:
        """Use of the kernels if the layer mixes several; else None."""
        part = next((part for part in self.parts.values() if part.role == "mixing"), None)
        if part is None:
            return None
        usage, total = part.measures["share"].mean, part.measures["total"]
        is_distribution = max(abs(float(total.minimum) - 1), abs(float(total.maximum) - 1)) <= SUM_TOLERANCE
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
    """The statistics of a network's dynamic layers, in the order of execution.

    Attributes:
        layers: One entry per layer.
        class_names: One name per class.
        images: Number of images.
    """

    layers: tuple[LayerStatistics, ...]
    class_names: tuple[str, ...]
    images: int

    def table(self) -> Table:
        """Return a console table with one row per part of each layer."""
        from dynaconv.explain.statistics_table import rich_table

        return rich_table(self)

    def rows(self) -> list[dict[str, Any]]:
        """Return one CSV row per layer, part and class, plus one per layer and part for all classes."""
        from dynaconv.explain.statistics_table import class_rows

        return class_rows(self)

    def to_csv(self) -> str:
        """Return `rows` as CSV text with a header."""
        from dynaconv.explain.statistics_table import COLUMNS, class_rows

        return csv_text(COLUMNS, class_rows(self))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        from dynaconv.explain.statistics_table import plain

        return plain(self)


def collect_statistics(
    model: nn.Module,
    batches: Iterable[Any],
    class_names: Sequence[str],
    *,
    max_batches: int | None = None,
) -> NetworkStatistics:
    """Collect statistics of all coefficients of the dynamic layers, in one pass in eval mode.

    Memory does not grow with the data. Means, deviations and extremes are exact. Quantiles are those of a uniform
    random sample of at most `RESERVOIR_SIZE` values. The state of the model does not change.

    Args:
        model: A network with layers that have a method `coefficients(x)`.
        batches: Pairs (images (B, C, H, W), classes (B,)).
        class_names: One name per class.
        max_batches: Maximum number of batches; None for all.

    Raises:
        ValueError: The model has no dynamic layer, there is no batch, or a label has no name.
    """
    running: dict[nn.Module, dict[str, _RunningPart]] = {}

    def add(module: nn.Module, parts: Mapping[str, Tensor], classes: Tensor) -> None:
        running_parts = running.setdefault(module, {})
        for name, values in parts.items():
            if name not in running_parts:
                role, limit = role_of(name, module, values), gate_limit(module, name)
                running_parts[name] = _RunningPart(role, limit, len(class_names))
            running_parts[name].add(values, classes)

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
    """Running statistics of one part of a layer."""

    role: Role
    limit: float | None
    num_classes: int
    statistics: dict[str, RunningStatistics] = field(default_factory=dict)
    samples: list[Tensor] = field(default_factory=list)
    reservoir: _Reservoir = field(default_factory=lambda: _Reservoir(RESERVOIR_SIZE))

    def add(self, values: Tensor, classes: Tensor) -> None:
        for name, numbers in {"": values, **measure(values, self.role, self.limit)}.items():
            if name not in self.statistics:
                self.statistics[name] = RunningStatistics.empty(self.num_classes, numbers)
            self.statistics[name].add(numbers, classes)
        self.reservoir.add(values)
        if self.role == "mixing":
            room = MAX_ATTENTION_SAMPLES - sum(map(len, self.samples))
            self.samples.append(values[:room].cpu())

    def result(self) -> PartReport:
        results = {name: running.result() for name, running in self.statistics.items()}
        # Leave out measures that some batches lack, such as the binary entropy if a weight is outside 0 to 1.
        complete = {
            name: result for name, result in results.items() if name and result.counts.sum() == results[""].counts.sum()
        }
        levels = torch.tensor(QUANTILE_LEVELS, dtype=torch.float64)
        return PartReport(
            values=results[""],
            role=self.role,
            measures=complete,
            quantiles=torch.quantile(self.reservoir.values, levels),
            limit=self.limit,
        )


class _Reservoir:
    """A uniform random sample of all added values: each value draws a random key, and the smallest keys are kept."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.values = torch.empty(0, dtype=torch.float64)
        self._keys = torch.empty(0)
        self._generator = torch.Generator().manual_seed(0)

    def add(self, values: Tensor) -> None:
        flat = values.detach().flatten().double().cpu()
        keys = torch.rand(len(flat), generator=self._generator)
        self.values = torch.cat([self.values, flat])
        self._keys = torch.cat([self._keys, keys])
        if len(self.values) > self.size:
            smallest = self._keys.topk(self.size, largest=False).indices
            self.values, self._keys = self.values[smallest], self._keys[smallest]
