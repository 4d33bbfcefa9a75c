"""Results of all analyses of one network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from dynaconv.explain.analyze.decompose import (
    LayerDecomposition,
    MixtureDetail,
    choose_mixture,
    decompose,
    mixture_detail,
)
from dynaconv.explain.figures import choose_layer
from dynaconv.explain.freezing import FreezingRanking, rank_layers
from dynaconv.explain.statistics import NetworkStatistics, collect_statistics
from dynaconv.explain.suppression import NoFactorsError, Suppression, measure_suppression
from dynaconv.progress import step

GRADIENT_BATCHES = 4
"""Number of batches for which gradients are computed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkAnalysis:
    """Results of all analyses of one network.

    Attributes:
        title: Title of the network in the report.
        model: timm name.
        accuracy: Accuracy on the analysed images, 0 to 1.
        statistics: Statistics of the coefficients.
        shown: Name of the layer in the figure of the classes.
        decompositions: Decompositions of the mixtures of kernels; empty for other families.
        detail: One of the mixtures in detail, or None.
        freezing: Layers by what freezing each of them costs.
        suppression: Suppression measures, or None if no layer has factors.
        no_suppression: The reason why `suppression` is None; empty if it is not None.
    """

    title: str
    model: str
    accuracy: float
    statistics: NetworkStatistics
    shown: str
    decompositions: tuple[LayerDecomposition, ...]
    detail: MixtureDetail | None
    freezing: FreezingRanking
    suppression: Suppression | None
    no_suppression: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "title": self.title,
            "model": self.model,
            "accuracy": self.accuracy,
            "statistics": self.statistics.to_dict(),
            "decompositions": [layer.to_dict() for layer in self.decompositions],
            "detail": None if self.detail is None else self.detail.to_dict(),
            "freezing": self.freezing.to_dict(),
            "suppression": None if self.suppression is None else self.suppression.to_dict(),
            "no_suppression": self.no_suppression or None,
        }


def analyze_network(
    model: nn.Module,
    batches: Iterable[Any],
    class_names: Sequence[str],
    *,
    title: str,
    name: str,
    accuracy: float,
    layer: str | None = None,
) -> NetworkAnalysis:
    """Compute statistics, decompositions, ranking and suppression measures of a network on a data set.

    Args:
        model: A network with dynamic layers, in float32.
        batches: Pairs (images, classes). They are iterated four times, the last time only for `GRADIENT_BATCHES`
            batches.
        class_names: One name per class.
        title: Title of the network in the report.
        name: timm name of the network.
        accuracy: Accuracy on these images.
        layer: The layer to show in detail. None selects the layer with the largest difference between classes and, for
            the decomposition, the mixture with the largest residual.

    Raises:
        ValueError: The network has no dynamic layer or none of that name, there are no images, or the weights are not
            finite.
    """
    with step(f"{title}: coefficients and kernels"):
        statistics = collect_statistics(model, batches, class_names)
    shown = choose_layer([entry.coefficients for entry in statistics.layers], layer).name
    with step(f"{title}: decomposition"):
        decompositions = decompose(model, statistics)
    chosen = choose_mixture(decompositions, layer)
    samples = {entry.name: entry.samples for entry in statistics.layers}
    detail = None
    if chosen is not None:
        attention = samples[chosen.name]
        assert attention is not None
        detail = mixture_detail(model, chosen, attention)
    with step(f"{title}: cost of freezing each layer"):
        freezing = rank_layers(model, batches)
    with step(f"{title}: gradients"):
        suppression, reason = _suppression(model, batches, decompositions)
    return NetworkAnalysis(
        title=title,
        model=name,
        accuracy=accuracy,
        statistics=statistics,
        shown=shown,
        decompositions=decompositions,
        detail=detail,
        freezing=freezing,
        suppression=suppression,
        no_suppression=reason,
    )


def _suppression(
    model: nn.Module, batches: Iterable[Any], decompositions: Sequence[LayerDecomposition]
) -> tuple[Suppression | None, str]:
    forms = {layer.name: layer.svd for layer in decompositions}
    try:
        return measure_suppression(model, batches, forms=forms, max_batches=GRADIENT_BATCHES), ""
    except NoFactorsError as error:
        return None, str(error)
