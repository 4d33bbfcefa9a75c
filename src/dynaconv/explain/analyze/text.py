"""Texts of the report: how each figure was computed, and its main results."""

from __future__ import annotations

from collections.abc import Sequence

from dynaconv.explain.analyze.decompose import FIT_SAMPLES, MAX_NUMEL_FIT, MAX_NUMEL_WITH_SCALE, MixtureDetail
from dynaconv.explain.analyze.result import NetworkAnalysis
from dynaconv.explain.coefficients import symbol

SUPPRESSION_LIMITS = (
    "The measure shows how unequal the gradients of the directions of one trained network are. It uses eval mode, the "
    "gradient of the mean loss of each batch, and directions of unit length. It has three limits. In a mixture, the "
    "chain rule implies that gradient and coefficient are correlated. Training updates whole kernels, not singular "
    "vectors: a small singular value is a result of training, and only attention slows learning down. Neither number "
    "shows whether a direction is worth learning."
)


def introduction(networks: Sequence[NetworkAnalysis]) -> list[str]:
    """Return the summary at the top of the report, one paragraph per network."""
    paragraphs = []
    for network in networks:
        layers = network.statistics.layers
        num_static = sum(all(part.still for part in layer.parts.values()) for layer in layers)
        best = max(layers, key=lambda layer: layer.coefficients.share_between)
        sentence = (
            f"{network.title} classifies {network.accuracy:.1%} of {network.statistics.images:,} images correctly. Its "
            f"coefficients depend most on the class in layer {best.name or best.kind}, where the class explains "
            f"{best.coefficients.share_between:.0%} of their variance."
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


def classes_caption(network: NetworkAnalysis) -> str:
    """Return the caption of the class means."""
    shown = next(layer for layer in network.statistics.layers if layer.name == network.shown)
    chance = next(iter(shown.parts.values())).values.share_by_chance
    return (
        f"Mean of each class in {network.shown or shown.kind} minus the average over classes: red is above the "
        "average, blue below. The lowest panel shows the share of the variance between classes for every layer. If the "
        f"classes did not differ, the expected share would be {chance:.1%}."
    )


def decomposition_caption() -> str:
    """Return the caption of the table of mixtures."""
    return (
        "W(x) = s(x) W_mean + Σ aₖ(x) ΔWₖ, with s(x) the sum of the weights, 1 for a softmax. Residual: median over "
        "the images of |Σ aₖ ΔWₖ|² / |W(x)|². Effective rank and number of directions with 90 % of the energy: output "
        "directions of all ΔWₖ side by side. L: latent size of DCD by the paper's rule."
    )


def residual_caption(detail: MixtureDetail) -> str:
    """Return the caption of the residual's share and the cosines."""
    return (
        f"{detail.layer.name}. Left: the residual's share of |W(x)|² over {len(detail.attention)} images. Right: "
        "cosines between the kernels' residuals. Equal values everywhere mean that training gave the residuals no "
        "common direction."
    )


def spectrum_caption(detail: MixtureDetail) -> str:
    """Return the caption of the spectrum."""
    return (
        f"{detail.layer.name}: singular values of each ΔWₖ and of all ΔWₖ jointly. If few directions have most of the "
        "energy, a small latent space can represent the residuals. If the values are equal, as for random kernels, it "
        "cannot."
    )


def curve_caption(detail: MixtureDetail) -> str:
    """Return the caption of the error of the best DCD fit."""
    caption = (
        f"{detail.layer.name}: least-squares fit of W₀, P, Φ(x), Q and Λ(x) to W(x) over up to {FIT_SAMPLES} images. "
        "The residual covers all taps. This is more general than DCD's channel fusion, so the error is a lower bound."
    )
    if all(not curve.scale for curve in detail.curves):
        caption += (
            f" Kernels with more than {MAX_NUMEL_WITH_SCALE:,} elements are fitted without Λ, kernels with more than "
            f"{MAX_NUMEL_FIT:,} not at all."
        )
    return caption


def suppression_captions(networks: Sequence[NetworkAnalysis]) -> list[str]:
    """Return the explanation of the suppression measure, and its result for each network."""
    paragraphs = [
        "The paper argues that attention over many latent directions holds back learning. In W(x) = W_mean + U Π(x) S "
        "Vᵀ, the columns uᵢ and vᵢ appear only as πₖ(x) sᵢ uᵢ vᵢᵀ, so a small πₖ(x) sᵢ reduces the gradient of both. "
        "In DCD, Φ(x) couples every column of P to every column of Q, so a small own entry Φⱼⱼ alone does not."
    ]
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
