"""What the report says in words: how each figure was computed, and what is seen in it."""

from __future__ import annotations

from collections.abc import Sequence

from dynaconv.analysis.analyze.decompose import FIT_SAMPLES, MEDIUM, SMALL, MixtureDetail
from dynaconv.analysis.analyze.result import NetworkAnalysis
from dynaconv.analysis.coefficients import symbol

SUPPRESSION_LIMITS = (
    "What this can show: how unequally gradient reaches the directions of one trained network, in eval mode, with the "
    "gradient of the mean loss of each batch and directions of unit length. What it cannot: that gradient and "
    "coefficient of a mixture go together is the chain rule and expected; kernels are trained as a whole, not as "
    "singular vectors, so that a small singular value is a result of training and only attention is a brake; and "
    "neither number says whether a direction would be worth learning."
)


def introduction(networks: Sequence[NetworkAnalysis]) -> list[str]:
    """What the reader should know when reading nothing else."""
    said = []
    for network in networks:
        layers = network.statistics.layers
        silent = sum(all(part.still for part in layer.parts.values()) for layer in layers)
        best = max(layers, key=lambda layer: layer.coefficients.share_between)
        sentence = (
            f"{network.title}: {network.statistics.images:,} images, {network.accuracy:.1%} of them recognised. Its "
            f"coefficients depend most on the class in {best.name or best.kind}, where the class explains "
            f"{best.coefficients.share_between:.0%} of their variance."
        )
        if silent:
            sentence += f" In {silent} of {len(layers)} dynamic layers nothing depends on the input."
        uses = [use for layer in layers if (use := layer.kernels) is not None]
        if uses:
            decides = sum(use.dependence for use in uses) / len(uses)
            unused = sum(len(use.unused) for use in uses)
            total = sum(len(use.usage) for use in uses)
            sentence += (
                f" Of its {total} kernels {unused or 'none'} {'is' if unused == 1 else 'are'} unused; what the input "
                f"decides about the mixture is {decides:.2g} on a scale from 0 to 1."
            )
        said.append(sentence)
    return said


def depth_caption(network: NetworkAnalysis) -> str:
    """Of the distributions by depth."""
    parts = list(dict.fromkeys(symbol(n, layer.kind) for layer in network.statistics.layers for n in layer.parts))
    said = (
        f"{', '.join(parts)} over {network.statistics.images:,} images, layer by layer: the spread holds both how "
        "elements differ from each other and how they move with the input; the table's sd is the latter alone."
    )
    return f"{said} A Λ of 1 leaves the static kernel as it is; ‖Φ‖ of 0 adds nothing." if "Λ" in parts else said


def usage_caption(network: NetworkAnalysis) -> str:
    """Of the use of kernels."""
    uses = [(layer.name, use) for layer in network.statistics.layers if (use := layer.kernels) is not None]
    name, use = max(uses, key=lambda entry: entry[1].dependence)
    said = (
        "Left: share of the weight that each kernel has, averaged over the images. Right: entropy of the shares of one "
        "image, averaged, and entropy of the average shares; the distance between them is what the input decides. It "
        f"is largest in {name}, {use.dependence:.2g}."
    )
    sigmoids = [use.binary_entropy for _, use in uses if use.binary_entropy is not None]
    if sigmoids:
        said += (
            " The weights are independent sigmoids, here divided by their sum; each by itself has an entropy of "
            f"{sum(sigmoids) / len(sigmoids):.2f} bits (1: undecided at 1/2, 0: fully on or off)."
        )
    return said


def classes_caption(network: NetworkAnalysis) -> str:
    """Of the class means."""
    shown = next(layer for layer in network.statistics.layers if layer.name == network.shown)
    chance = next(iter(shown.parts.values())).values.share_by_chance
    return (
        f"Mean of each class in {network.shown or shown.kind} minus the average over classes, red for more and blue "
        "for less. Below, the share of the variance that lies between classes, for every layer; without any "
        f"difference between classes {chance:.1%} would come out."
    )


def decomposition_caption() -> str:
    """Of the table of mixtures."""
    return (
        "W(x) = s(x) W_mean + Σ aₖ(x) ΔWₖ, with s(x) the sum of the weights, 1 for a softmax. Residual: median over "
        "the images of |Σ aₖ ΔWₖ|² / |W(x)|². Effective rank and the number of directions with 90 % of the energy: of "
        "all ΔWₖ side by side, the directions they write to. L: latent size that the paper's rule gives DCD here."
    )


def residual_caption(detail: MixtureDetail) -> str:
    """Of the residual's share and the cosines."""
    return (
        f"{detail.layer.name}: left, over {len(detail.attention)} images, how much of the kernel is more than the mean "
        "kernel. Right, how alike the kernels' differences from their mean are; the same value everywhere means that "
        "training gave them no common direction."
    )


def spectrum_caption(detail: MixtureDetail) -> str:
    """Of the spectrum."""
    return (
        f"{detail.layer.name}: singular values of each ΔWₖ and of all together. Few directions with most of the energy "
        "would mean that a small latent space can hold what the kernels add; equal ones, as random kernels have, that "
        "it cannot."
    )


def curve_caption(detail: MixtureDetail) -> str:
    """Of the error of the best DCD."""
    said = (
        f"{detail.layer.name}: least-squares fit of W₀, P, Φ(x), Q and Λ(x) to W(x) over up to {FIT_SAMPLES} images, "
        "with the residual on all taps, which is more than DCD's channel fusion may use: a lower bound for it."
    )
    if all(not curve.scale for curve in detail.curves):
        said += f" A kernel of more than {SMALL:,} numbers is fitted without Λ (above {MEDIUM:,} not at all)."
    return said


def suppression_captions(networks: Sequence[NetworkAnalysis]) -> list[str]:
    """What the measure is, and what it gives for each network."""
    paragraphs = [
        "The paper argues that attention over many latent directions holds back learning: in W(x) = W_mean + U Π(x) S "
        "Vᵀ the columns uᵢ and vᵢ appear only as πₖ(x) sᵢ uᵢ vᵢᵀ, and a small πₖ(x) sᵢ keeps the gradient from both. "
        "In DCD every column of P meets every column of Q through Φ(x), so that a small entry Φⱼⱼ of its own does not."
    ]
    for network in networks:
        found = network.suppression
        if found is None:
            continue
        own, ratio = found.average("own_correlation"), found.average("gradient_ratio")
        spread = found.average("coefficient_ratio")
        if own is None or ratio is None or spread is None:
            paragraphs.append(f"{network.title}: no gradient reaches its directions, or they are too few to compare.")
            continue
        said = (
            f"{network.title}, {found.images:,} images in {found.batches} batches: rank correlation {own:+.2f} "
            f"between gradient and own coefficient; the quarter with the smallest own coefficients, {spread:.2f} times "
            f"those of the largest, gets {ratio:.2f} times the gradient."
        )
        joined = found.average("correlation")
        if joined is not None and any(layer.method == "dcd" for layer in found.layers):
            said += f" With the whole row or column of Φ the correlation is {joined:+.2f}."
        paragraphs.append(said)
    return paragraphs
