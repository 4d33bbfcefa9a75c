"""Sentences of the report that depend on the results."""

from __future__ import annotations

from collections.abc import Sequence

from dynaconv.explain.analyze.result import NetworkAnalysis
from dynaconv.explain.coefficients import symbol


def introduction(networks: Sequence[NetworkAnalysis]) -> list[str]:
    """Return the summary at the top of the report, one paragraph per network: first what its kernels are worth."""
    paragraphs = []
    for network in networks:
        layers = network.statistics.layers
        finding = _finding(network)
        num_static = sum(all(part.still for part in layer.parts.values()) for layer in layers)
        best = max(layers, key=lambda layer: layer.coefficients.share_between)
        sentence = (
            f"{network.title} classifies {network.accuracy:.1%} of {network.statistics.images:,} images correctly."
            f"{finding} Its coefficients depend most on the class in layer {best.name or best.kind}, where the class "
            f"explains {best.coefficients.share_between:.0%} of their variance."
        )
        if num_static:
            sentence += f" In {num_static} of {len(layers)} dynamic layers the coefficients do not depend on the input."
        uses = [use for layer in layers if (use := layer.kernels) is not None]
        if uses:
            dependence = sum(use.dependence for use in uses) / len(uses)
            unused = sum(len(use.unused) for use in uses)
            total = sum(len(use.usage) for use in uses)
            sentence += (
                f" Of its {total} kernels, {unused or 'none'} {'is' if unused == 1 else 'are'} unused. On a scale from "
                f"0 to 1, the input decides {dependence:.2g} of the mixture."
            )
        paragraphs.append(sentence)
    return paragraphs


def _finding(network: NetworkAnalysis) -> str:
    """Return how far the kernels move and what freezing them costs; empty if no layer can be frozen."""
    ranking = network.freezing
    if ranking.movement is None:
        return ""
    effect = ranking.all_frozen
    cost = "does not change the accuracy"
    if effect.lost != effect.gained:
        cost = f"{'costs' if effect.cost > 0 else 'gains'} {abs(100 * effect.cost):.1f} points of accuracy"
    return (
        f" Its kernels lie {ranking.movement:.1%} of their length away from their mean. Freezing all of them at that "
        f"mean {cost} and changes {effect.changed / effect.images:.1%} of the predictions."
    )


def depth_caption(network: NetworkAnalysis) -> str:
    """Return the caption of the distributions by depth."""
    parts = list(dict.fromkeys(symbol(n, layer.kind) for layer in network.statistics.layers for n in layer.parts))
    caption = (
        f"{', '.join(parts)} over {network.statistics.images:,} images, layer by layer. The spread includes both the "
        "differences between elements and their variation with the input; sd in the table is the latter only."
    )
    return f"{caption} Λ = 1 does not change the static kernel; ‖Φ‖ = 0 adds nothing." if "Λ" in parts else caption


def usage_caption(network: NetworkAnalysis) -> str:
    """Return the caption of the use of kernels."""
    uses = [(layer.name, use) for layer in network.statistics.layers if (use := layer.kernels) is not None]
    name, use = max(uses, key=lambda entry: entry[1].dependence)
    caption = (
        "Left: share of the weight of each kernel, averaged over the images. Right: entropy of the shares of one "
        "image, averaged over the images, and entropy of the average shares. The difference between the two measures "
        f"how much the input decides; it is largest in {name}, {use.dependence:.2g}."
    )
    sigmoids = [use.binary_entropy for _, use in uses if use.binary_entropy is not None]
    if sigmoids:
        caption += (
            " The weights are independent sigmoids, here divided by their sum. A single weight has a mean entropy of "
            f"{sum(sigmoids) / len(sigmoids):.2f} bits (1: the weight is 1/2, 0: it is 0 or 1)."
        )
    return caption


def suppression_results(networks: Sequence[NetworkAnalysis]) -> list[str]:
    """Return the result of the suppression measure for each network that has one."""
    paragraphs = []
    for network in networks:
        suppression = network.suppression
        if suppression is None:
            continue
        own, gradient_ratio = suppression.average("own_correlation"), suppression.average("gradient_ratio")
        coefficient_ratio = suppression.average("coefficient_ratio")
        if own is None or gradient_ratio is None or coefficient_ratio is None:
            paragraphs.append(
                f"{network.title}: its directions have no gradient, or there are too few of them to compare."
            )
            continue
        sentence = (
            f"{network.title}, {suppression.images:,} images in {suppression.batches} batches: the rank correlation "
            f"between gradient and own coefficient is {own:+.2f}. The quarter of the directions with the smallest own "
            f"coefficients has {coefficient_ratio:.2f} times the coefficient and {gradient_ratio:.2f} times the "
            "gradient of the quarter with the largest."
        )
        correlation = suppression.average("correlation")
        if correlation is not None and any(layer.method == "dcd" for layer in suppression.layers):
            sentence += f" With the whole row or column of Φ the correlation is {correlation:+.2f}."
        paragraphs.append(sentence)
    return paragraphs
