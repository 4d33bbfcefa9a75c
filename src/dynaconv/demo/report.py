"""The HTML report of a demonstration: results, explanation of dynamic kernels, coefficients and predictions."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dynaconv.demo.result import COLUMNS, DemoResult
from dynaconv.explain.coefficients import LayerCoefficients
from dynaconv.explain.figures import choose_layer
from dynaconv.explain.report import data_uri, embedded_image, render
from dynaconv.files import write_text
from dynaconv.train.config import load_recipe

TITLE = "A network with dynamic kernels and its static twin, trained on drawn letters"
MAX_MISTAKES = 24
RIGHT_PICTURES = 12


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The held-out pictures and the predictions of both networks.

    Attributes:
        images: Pictures before normalisation, `uint8` (N, 1, H, W).
        classes: Class indices, (N,).
        class_names: One name per class.
        probabilities: Predicted probabilities of each network, static first, (N, classes).
    """

    images: Tensor
    classes: Tensor
    class_names: tuple[str, ...]
    probabilities: tuple[Tensor, Tensor]


def write_report(
    result: DemoResult,
    *,
    facts_of_run: Mapping[str, str],
    latency_conditions: str,
    coefficients: Sequence[LayerCoefficients],
    pictures: Pictures,
) -> Path:
    """Write `report.html` beside the figures it embeds, and return its path."""
    correct = zip(*(network.correct for network in result.networks), strict=True)
    mistakes = [index for index, both in enumerate(correct) if not all(both)]
    # Show the least confident predictions first.
    confidence = (pictures.probabilities[0].amax(1) + pictures.probabilities[1].amax(1)).tolist()
    right = sorted(set(range(len(confidence))) - set(mistakes), key=confidence.__getitem__)
    page = render(
        "demo/report.html",
        title=TITLE,
        facts=facts_of_run,
        result=result,
        columns=COLUMNS,
        cells=[network.cells() for network in result.networks],
        latency_conditions=latency_conditions,
        curves=data_uri((result.folder / "curves.png").read_bytes()),
        coefficients=data_uri((result.folder / "coefficients.png").read_bytes()),
        layers=coefficients,
        shown=choose_layer(coefficients),
        pictures=pictures,
        embedded_image=embedded_image,
        mistakes_sentence=_mistakes_sentence(result, len(mistakes)),
        mistakes=mistakes[:MAX_MISTAKES],
        right=right[:RIGHT_PICTURES],
        weights=shlex.quote(str(result.folder / "dcd")),
        static_model=load_recipe("fashion-mnist").model["name"].replace("dcd_", "static_"),
    )
    write_text(result.report, page)
    return result.report


def _mistakes_sentence(result: DemoResult, mistakes: int) -> str:
    static, dynamic = result.networks
    total = len(static.correct)
    if not mistakes:
        return f"Neither network is wrong on any of the {total} held-out pictures."
    both = sum(not (a or b) for a, b in zip(static.correct, dynamic.correct, strict=True))
    wrong = [total - sum(network.correct) for network in (static, dynamic)]
    cut = (
        f" The first {MAX_MISTAKES} of these {mistakes} pictures:"
        if mistakes > MAX_MISTAKES
        else " These pictures are:"
    )
    return (
        f"Of {total} held-out pictures, {static.title} is wrong on {wrong[0]} and {dynamic.title} on {wrong[1]}; "
        f"both are wrong on {both}.{cut}"
    )
