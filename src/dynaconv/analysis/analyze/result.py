"""All that is found in one network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from dynaconv.analysis.analyze.decompose import (
    LayerDecomposition,
    MixtureDetail,
    choose_mixture,
    decompose,
    mixture_detail,
)
from dynaconv.analysis.figures import choose_layer
from dynaconv.analysis.statistics import NetworkStatistics, collect_statistics
from dynaconv.analysis.suppression import NoFactorsError, Suppression, measure_suppression

GRADIENT_BATCHES = 4
"""Batches that gradients are taken of."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkAnalysis:
    """All that is found in one network.

    Attributes:
        title: What it is called in the report.
        model: timm name.
        accuracy: On the images looked at, 0 to 1.
        statistics: Of its coefficients.
        shown: Name of the layer whose classes are shown.
        decompositions: Of its mixtures of kernels; empty for other families.
        detail: One of them in detail, or None.
        suppression: The measure, or None where no layer allows it.
        no_suppression: Why not; empty where there is one.
    """

    title: str
    model: str
    accuracy: float
    statistics: NetworkStatistics
    shown: str
    decompositions: tuple[LayerDecomposition, ...]
    detail: MixtureDetail | None
    suppression: Suppression | None
    no_suppression: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "title": self.title,
            "model": self.model,
            "accuracy": self.accuracy,
            "statistics": self.statistics.to_dict(),
            "decompositions": [layer.to_dict() for layer in self.decompositions],
            "detail": None if self.detail is None else self.detail.to_dict(),
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
    """Statistics, decomposition and suppression of a network on a data set.

    Args:
        model: A network with dynamic layers, in float32.
        batches: Pairs (images, classes); gone through twice, the second time for `GRADIENT_BATCHES` batches.
        class_names: One for each class.
        title: What the network is called.
        name: Its timm name.
        accuracy: On these images.
        layer: The layer to show in detail; None for the one where classes differ most, and among mixtures the one
            with the largest residual.

    Raises:
        ValueError: No dynamic layer, no layer of that name, no images, or weights that are not finite.
    """
    statistics = collect_statistics(model, batches, class_names)
    shown = choose_layer([entry.coefficients for entry in statistics.layers], layer).name
    decompositions = decompose(model, statistics)
    chosen = choose_mixture(decompositions, layer)
    samples = {entry.name: entry.samples for entry in statistics.layers}
    detail = None
    if chosen is not None:
        attention = samples[chosen.name]
        assert attention is not None
        detail = mixture_detail(model, chosen, attention)
    suppression, reason = _suppression(model, batches, decompositions)
    return NetworkAnalysis(
        title=title,
        model=name,
        accuracy=accuracy,
        statistics=statistics,
        shown=shown,
        decompositions=decompositions,
        detail=detail,
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
