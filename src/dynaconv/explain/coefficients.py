"""Statistics of the dynamic branch's outputs per class: how much they depend on the class of the image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.conversion.example import eval_mode, temporary_hooks
from dynaconv.explain.movement import dynamic_layers, labelled
from dynaconv.families import Coefficient, families
from dynaconv.measure.modules import branch_arguments

RELATIVE_ROUNDING = 1e-6
"""Relative rounding error of float32 coefficients: smaller changes do not count as dependence on the input."""


def coefficient_info(part: str, kind: str) -> Coefficient | None:
    """Return a family's description of one part of its coefficients.

    Args:
        part: Name of the part in the ``coefficients`` tuple.
        kind: Class name of the layer. For a layer of no family, the first family that has such a part is used.

    Returns:
        The description; None if no family has such a part.
    """
    candidates = [family for family in families() if part in family.coefficients]
    own = [family for family in candidates if kind in (layer.__name__ for layer in family.layers)]
    return next((family.coefficients[part] for family in [*own, *candidates]), None)


def symbol(part: str, kind: str) -> str:
    """Return the symbol of a part, or its name if no family describes it."""
    coefficient = coefficient_info(part, kind)
    return coefficient.symbol if coefficient is not None else part


@dataclass(frozen=True, kw_only=True, eq=False)
class PartStatistics:
    """One part of a layer's coefficients (Lambda, Phi, an attention) over a data set, per class.

    Attributes:
        counts: Number of samples per class, (K,).
        class_means: Mean of each class, (K, *shape), with the shape of the part for one sample; NaN for an empty class.
        class_variances: Population variance within each class, (K, *shape); NaN for an empty class.
        class_minima: Smallest value in each class, (K, *shape); NaN for an empty class.
        class_maxima: Largest value in each class, (K, *shape); NaN for an empty class.
        mean: Mean over all samples, (*shape).
    """

    counts: Tensor
    class_means: Tensor
    class_variances: Tensor
    class_minima: Tensor
    class_maxima: Tensor
    mean: Tensor

    @property
    def deviation(self) -> Tensor:
        """Standard deviation over all samples, (*shape)."""
        return (self.between + self.within).sqrt()

    @property
    def minimum(self) -> Tensor:
        """Smallest value over all samples, (*shape)."""
        return self.class_minima[self.counts > 0].amin(0)

    @property
    def maximum(self) -> Tensor:
        """Largest value over all samples, (*shape)."""
        return self.class_maxima[self.counts > 0].amax(0)

    @property
    def between(self) -> Tensor:
        """Variance of the class means, weighted by the samples per class, (*shape)."""
        present = self.counts > 0
        deviations = (self.class_means[present] - self.mean).square()
        return _weighted(deviations, self.counts[present])

    @property
    def within(self) -> Tensor:
        """Variance within the classes, averaged over the samples, (*shape)."""
        present = self.counts > 0
        return _weighted(self.class_variances[present], self.counts[present])

    @property
    def variance_ratio(self) -> float:
        """Between-class over within-class variance, each summed over the elements; infinite if only the latter is 0."""
        between, within = self._sums()
        if within == 0:
            return float("inf") if between > 0 else 0.0
        return between / within

    @property
    def share_between(self) -> float:
        """Between-class share of the total variance, 0 to 1; 0 for a constant part."""
        between, within = self._sums()
        return between / (between + within) if between + within > 0 else 0.0

    def _sums(self) -> tuple[float, float]:
        """Return the variance between and within classes, summed over the elements; both 0 if only rounding error."""
        between, within = float(self.between.sum()), float(self.within.sum())
        threshold = float(self.mean.square().sum()) * RELATIVE_ROUNDING**2
        return (between, within) if between + within > threshold else (0.0, 0.0)

    @property
    def share_by_chance(self) -> float:
        """Expected share if the class had no effect: (K - 1) / (N - 1) for K classes and N samples."""
        classes, samples = int((self.counts > 0).sum()), int(self.counts.sum())
        return (classes - 1) / (samples - 1) if samples > 1 else 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerCoefficients:
    """Statistics of the coefficients of one dynamic layer.

    Attributes:
        name: Dotted path in the model.
        kind: Class name.
        parts: Statistics by field name of the layer's `coefficients` tuple, such as `scale` (Lambda) or `fusion` (Phi).
    """

    name: str
    kind: str
    parts: Mapping[str, PartStatistics]

    @property
    def share_between(self) -> float:
        """`PartStatistics.share_between`, averaged over the parts."""
        return sum(part.share_between for part in self.parts.values()) / max(len(self.parts), 1)


Visit = Callable[[nn.Module, Mapping[str, Tensor], Tensor], None]
"""Callback for a dynamic layer, the parts of its coefficients, each (B, *shape), and the batch's classes, (B,)."""


def collect_coefficients(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    num_classes: int,
    max_batches: int | None = None,
) -> tuple[LayerCoefficients, ...]:
    """Collect statistics of every dynamic layer's coefficients over a data set, in the order of execution.

    Memory does not grow with the data: counts, means and sums of squared deviations are merged batch by batch in
    float64. The model runs in eval mode; its state does not change.

    Args:
        model: A network with layers that have a method `coefficients(x)`.
        batches: Pairs (images (B, C, H, W), classes (B,)), such as those of a data loader.
        num_classes: Number of classes K; class labels are 0 to K - 1.
        max_batches: Maximum number of batches; None for all.

    Raises:
        ValueError: The model has no dynamic layer, there is no batch, or a label is outside 0 to K - 1.
    """
    running: dict[nn.Module, dict[str, RunningStatistics]] = {}

    def add(module: nn.Module, parts: Mapping[str, Tensor], classes: Tensor) -> None:
        running_parts = running.setdefault(module, {})
        for part, values in parts.items():
            if part not in running_parts:
                running_parts[part] = RunningStatistics.empty(num_classes, values)
            running_parts[part].add(values, classes)

    names = visit_coefficients(model, batches, add, num_classes=num_classes, max_batches=max_batches)
    return tuple(
        LayerCoefficients(
            name=names[module],
            kind=type(module).__name__,
            parts={part: statistics.result() for part, statistics in parts.items()},
        )
        for module, parts in running.items()
    )


@torch.inference_mode()
def visit_coefficients(
    model: nn.Module,
    batches: Iterable[Any],
    visit: Visit,
    *,
    num_classes: int,
    max_batches: int | None = None,
) -> dict[nn.Module, str]:
    """Run a network over a data set and pass each dynamic layer's coefficients to a callback.

    Args:
        model, batches, num_classes, max_batches: As for `collect_coefficients`.
        visit: Called for each layer and batch, without the parts that are None.

    Returns:
        The dynamic layers and their names.

    Raises:
        ValueError: As for `collect_coefficients`.
    """
    names = dynamic_layers(model)
    device = next(model.parameters()).device
    reached = False

    def observe(layer: nn.Module, coefficients: Any) -> None:
        nonlocal reached
        reached = True
        parts = {part: values for part, values in coefficients._asdict().items() if isinstance(values, Tensor)}
        visit(layer, parts, checked)

    with eval_mode(model), observed_coefficients(names, observe):
        for images, classes in labelled(batches, max_batches):
            checked = _checked_classes(classes, num_classes).to(device)
            model(images.to(device))
    if not reached:
        raise ValueError(
            "no batch reached a dynamic layer: the data loader is empty, or the network does not call these layers."
        )
    return names


@dataclass
class RunningStatistics:
    """Per-class counts, means, sums of squared deviations and extremes, merged batch by batch."""

    counts: Tensor
    means: Tensor
    deviations: Tensor = field(repr=False)
    minima: Tensor = field(repr=False)
    maxima: Tensor = field(repr=False)

    @classmethod
    def empty(cls, num_classes: int, like: Tensor) -> RunningStatistics:
        """Return statistics of no samples, for values of the shape of `like`, (B, *shape)."""
        zeros = torch.zeros(num_classes, *like.shape[1:], dtype=torch.float64, device=like.device)
        counts = torch.zeros(num_classes, dtype=torch.float64, device=like.device)
        infinite = torch.full_like(zeros, float("inf"))
        return cls(counts, zeros, zeros.clone(), infinite, -infinite)

    def add(self, values: Tensor, classes: Tensor) -> None:
        """Add the values of a batch, (B, *shape), with its classes, (B,)."""
        values = values.double()
        counts = torch.zeros_like(self.counts).index_add_(0, classes, torch.ones_like(classes, dtype=torch.float64))
        new = _column(counts, values).clamp(min=1)
        means = torch.zeros_like(self.means).index_add_(0, classes, values) / new
        deviations = torch.zeros_like(self.means).index_add_(0, classes, (values - means[classes]).square())
        total = self.counts + counts
        share = _column(counts / total.clamp(min=1), values)
        step = means - self.means
        self.deviations += deviations + step.square() * share * _column(self.counts, values)
        self.means += step * share
        self.counts = total
        rows = _column(classes, values).expand_as(values)
        self.minima.scatter_reduce_(0, rows, values, "amin")
        self.maxima.scatter_reduce_(0, rows, values, "amax")

    def result(self) -> PartStatistics:
        """Return the statistics of all added values; NaN for empty classes."""
        counts = _column(self.counts, self.means)

        def masked(values: Tensor) -> Tensor:
            return values.masked_fill(counts == 0, float("nan")).cpu()

        return PartStatistics(
            counts=self.counts.long().cpu(),
            class_means=masked(self.means),
            class_variances=masked(self.deviations / counts.clamp(min=1)),
            class_minima=masked(self.minima),
            class_maxima=masked(self.maxima),
            mean=_weighted(self.means, self.counts).cpu(),
        )


@contextmanager
def observed_coefficients(layers: Iterable[nn.Module], observe: Callable[[nn.Module, Any], None]) -> Iterator[None]:
    """Call `observe` with each layer and the coefficients of its input, before each call of the layer in the block."""

    @torch.no_grad()
    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        own, further = branch_arguments(module, args, kwargs)
        observe(module, module.coefficients(*own, **further))

    with temporary_hooks(layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers):
        yield


def _checked_classes(classes: Tensor, num_classes: int) -> Tensor:
    if classes.dim() != 1 or classes.is_floating_point():
        raise ValueError(
            f"classes must be integers of shape (B,); got {classes.dtype} of shape {tuple(classes.shape)}. "
            "Turn off mixup and other label mixing to collect statistics."
        )
    invalid = classes[(classes < 0) | (classes >= num_classes)]
    if len(invalid):
        raise ValueError(f"class {int(invalid[0])} is outside 0 to {num_classes - 1}; check `num_classes`.")
    return classes.long()


def _column(per_class: Tensor, like: Tensor) -> Tensor:
    """Reshape (K,) to broadcast against (K, *shape)."""
    return per_class.view(-1, *[1] * (like.dim() - 1))


def _weighted(values: Tensor, counts: Tensor) -> Tensor:
    """Return the mean over the first axis, weighted by `counts`, (K,)."""
    weights = counts.double() / counts.sum().clamp(min=1)
    return (values * _column(weights, values)).sum(0)
