"""The HTML report of a demonstration: results, explanation of dynamic kernels, coefficients and predictions."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from torch import Tensor

from dynaconv.demo.result import COLUMNS, DemoResult, NetworkResult
from dynaconv.explain.coefficients import LayerCoefficients
from dynaconv.explain.figures import choose_layer
from dynaconv.explain.report import (
    Html,
    Section,
    code_block,
    data_uri,
    facts,
    figure,
    join,
    page,
    paragraph,
    picture_png,
    table,
    text,
)
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
    folder = result.folder
    sections = [
        Section(title="Result", body=_result(result, latency_conditions)),
        Section(title="Learning curves", body=_curves(folder / "curves.png")),
        Section(title="What a dynamic kernel is", body=_explanation()),
        Section(
            title="What it learned",
            body=_coefficients(folder / "coefficients.png", coefficients, result.movement_sentence()),
        ),
        Section(title="Pictures and predictions", body=_pictures(result, pictures)),
        Section(title="What to try next", body=_next_steps(folder)),
        Section(title="What was run", body=facts(facts_of_run, as_code=("Command",))),
    ]
    lead = join([paragraph(result.verdict(), kind="lead"), paragraph(_introduction(result), kind="")])
    footer = Html(f"Written by dynaconv {text(facts_of_run['dynaconv'])}. This file contains everything on the page.")
    write_text(result.report, page(TITLE, lead=lead, sections=sections, footer=footer))
    return result.report


def _introduction(result: DemoResult) -> str:
    return (
        "Both networks have the same layout, recipe, seed and data. They have one difference: in "
        f"{result.static.title} each convolution uses the same kernel for every picture, and in {result.dynamic.title} "
        "most convolutions compute their kernel from their input."
    )


def _result(result: DemoResult, latency_conditions: str) -> Html:
    caption = (
        "MAdds: multiply-adds of the convolutions and matrix products for one picture, including the dynamic branch. "
        f"Latency: {latency_conditions}; eager is PyTorch in eager mode, native is dynaconv.deploy(network, "
        'backend="native") in 200 rounds. For pictures of this size, eager PyTorch spends most of its time on '
        "launching operators, and a dynamic layer has more operators. The native kernels do not have this overhead."
    )
    rows = [network.cells() for network in result.networks]
    return table(COLUMNS, rows, footer=result.ratio_cells(), caption=caption)


def _curves(png: Path) -> Html:
    caption = (
        "Loss (left) and accuracy (right) after each epoch. Solid lines are for validation pictures, on which the "
        "networks are not trained. Dotted lines are for training pictures, measured during the epoch and with label "
        "smoothing, which keeps the training loss above zero. Peaks of the validation loss in early epochs, when the "
        "running statistics of batch norms lag behind the weights, may be cut off."
    )
    return figure(png, alt="Loss and accuracy of both networks over the epochs", caption=caption)


def _explanation() -> Html:
    drawing = files("dynaconv.demo").joinpath("equation.svg").read_text(encoding="utf-8")
    return join(
        [
            paragraph(
                "A convolution multiplies each patch of its input by a matrix W, its kernel. In a static network W is "
                "learned and then fixed. A dynamic network computes it for each input x:"
            ),
            Html(
                '<p class="equation">W(x) = <b>Λ</b>(x) W<sub>0</sub> + P <b>Φ</b>(x) Q<sup>T</sup></p>'
                f"<figure>{drawing}</figure>"
            ),
            Html(
                "<ul>"
                "<li><b>W<sub>0</sub></b> is an ordinary kernel, the same for every picture.</li>"
                "<li><b>Λ(x)</b> is diagonal: one factor for each output channel. It scales the channels "
                "of W<sub>0</sub>; a factor of 1 does not change a channel.</li>"
                "<li><b>P Φ(x) Q<sup>T</sup></b> is a residual. Q<sup>T</sup> projects the input to L "
                "numbers, Φ(x) mixes them with weights computed for this picture, and P projects the result to the "
                "output channels. L is much smaller than the number of channels, so this part is cheap.</li>"
                "</ul>"
            ),
            paragraph(
                "A small branch computes Λ(x) and Φ(x): it averages the input over the picture and applies two small "
                "linear layers. All parts are trained together. The method is dynamic convolution decomposition (DCD; "
                "Li et al., ICLR 2021, arXiv:2103.08756)."
            ),
        ]
    )


def _coefficients(png: Path, layers: Sequence[LayerCoefficients], movement: str) -> Html:
    shown = choose_layer(layers)
    chance = next(iter(shown.parts.values())).share_by_chance
    reading = (
        "Each coloured cell shows the difference between the mean Λ or Φ of one class and the average over all "
        "classes: red is above the average, blue below. If rows and maps look different, the network uses different "
        "kernels for different letters. The curve at the bottom shows the share of the variance of Λ and Φ between "
        f"classes, layer by layer. If the class had no effect, the expected share would be {chance:.1%}."
    )
    first, last = layers[0], layers[-1]
    trend = (
        f"The share is {first.share_between:.0%} in the first dynamic layer and {last.share_between:.0%} in the last. "
        f"It is largest in {shown.name}, the layer shown here: {shown.share_between:.0%}."
    )
    num_static = sum(entry.share_between == 0 for entry in layers)
    if num_static:
        trend += (
            f" In {num_static} of the {len(layers)} layers Λ and Φ are the same for every picture: the output of their "
            "branch became constant in training, so they are static layers."
        )
    alt = (
        "Heat map of Lambda by class and channel, maps of Phi by class, and share of variance between classes by layer"
    )
    return join([paragraph(movement), paragraph(reading), paragraph(trend), figure(png, alt=alt)])


def _pictures(result: DemoResult, pictures: Pictures) -> Html:
    right = [network.correct for network in result.networks]
    total = len(right[0])
    mistakes = [index for index in range(total) if not all(correct[index] for correct in right)]
    # Show the least confident predictions first.
    confidence = (pictures.probabilities[0].amax(1) + pictures.probabilities[1].amax(1)).tolist()
    correct = sorted(set(range(total)) - set(mistakes), key=confidence.__getitem__)
    parts = [paragraph(_mistakes_sentence(result, len(mistakes)))]
    if mistakes:
        parts.append(_cards(result, pictures, mistakes[:MAX_MISTAKES]))
    if correct:
        parts.append(Html("<h3>Right, with the lowest confidence</h3>"))
        parts.append(_cards(result, pictures, correct[:RIGHT_PICTURES]))
    return join(parts)


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


def _cards(result: DemoResult, pictures: Pictures, indices: Sequence[int]) -> Html:
    return Html(f'<ul class="pictures">{"".join(_card(result, pictures, index) for index in indices)}</ul>')


def _card(result: DemoResult, pictures: Pictures, index: int) -> str:
    truth = pictures.class_names[int(pictures.classes[index])]
    rows = [
        _prediction(network, probabilities[index], pictures.class_names, network.correct[index])
        for network, probabilities in zip(result.networks, pictures.probabilities, strict=True)
    ]
    picture = data_uri(picture_png(pictures.images[index]))
    alt = text(f"Drawn {truth}")
    return (
        f'<li><img src="{picture}" alt="{alt}"><div class="row true"><span>is</span><span>{text(truth)}</span></div>'
        f"{''.join(rows)}</li>"
    )


def _prediction(network: NetworkResult, probabilities: Tensor, class_names: Sequence[str], right: bool) -> str:
    best = int(probabilities.argmax())
    mark, kind = ("", "row") if right else ("✗ ", "row wrong")
    label = text(f"{mark}{class_names[best]} ({float(probabilities[best]):.0%})")
    return f'<div class="{kind}"><span>{text(network.title)}</span><span>{label}</span></div>'


def _next_steps(folder: Path) -> Html:
    dynamic = load_recipe("fashion-mnist").model["name"]
    static = dynamic.replace("dcd_", "static_")
    weights = shlex.quote(str(folder / "dcd"))
    return join(
        [
            paragraph("Run another seed, to see how much the result varies:"),
            code_block("dynaconv demo --seed 1"),
            paragraph("Classify your own pictures with the trained network, one letter each:"),
            code_block(f"dynaconv predict --checkpoint {weights} PICTURE.png"),
            paragraph("Train on clothes instead of letters, first the dynamic network, then its static twin:"),
            code_block(
                f"dynaconv train --recipe fashion-mnist\ndynaconv train --recipe fashion-mnist --model {static}"
            ),
            paragraph("Use a dynamic layer in your own network, and compute its kernel for each picture:"),
            code_block(
                "import torch\n"
                "from dynaconv import DCDConv2d\n\n"
                "layer = DCDConv2d(64, 128, kernel_size=1)\n"
                "x = torch.randn(8, 64, 14, 14)\n"
                "y = layer(x)               # (8, 128, 14, 14)\n"
                "kernels = layer.kernel(x)  # (8, 128, 64, 1, 1): one kernel for each picture"
            ),
        ]
    )
