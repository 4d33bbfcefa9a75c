"""The report of a demonstration: what was run, what came out, and what the kernels do."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from torch import Tensor

from dynaconv.analysis.coefficients import LayerCoefficients
from dynaconv.analysis.figures import choose_layer
from dynaconv.analysis.report import (
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
from dynaconv.demo.result import COLUMNS, DemoResult, NetworkResult
from dynaconv.files import write_text
from dynaconv.train.config import load_recipe

TITLE = "A network with dynamic kernels and its static twin, trained on drawn letters"
MAX_MISTAKES = 24
RIGHT_PICTURES = 12


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The held-out pictures and what both networks say about them.

    Attributes:
        images: As they are seen before normalisation, `uint8` (N, 1, H, W).
        classes: (N,).
        class_names: One for each class.
        probabilities: Of each network, static first, (N, classes).
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
    footer = Html(f"Written by dynaconv {text(facts_of_run['dynaconv'])}. Everything on this page is inside this file.")
    write_text(result.report, page(TITLE, lead=lead, sections=sections, footer=footer))
    return result.report


def _introduction(result: DemoResult) -> str:
    return (
        "Both networks have the same layout, recipe, seed and data. They differ in one thing: in "
        f"{result.static.title} each convolution uses the same kernel for every picture, in {result.dynamic.title} "
        "most convolutions compute their kernel from the picture they look at."
    )


def _result(result: DemoResult, latency_conditions: str) -> Html:
    caption = (
        "MAdds: multiply-adds of the convolutions and products that run for one picture, the dynamic branch included. "
        f"Latency: {latency_conditions}; eager is PyTorch operator by operator, native is dynaconv.deploy(network, "
        'backend="native") in 200 rounds. On pictures this small eager PyTorch spends most of the time on starting '
        "operations, of which a dynamic layer has more; the native kernels do not."
    )
    rows = [network.cells() for network in result.networks]
    return table(COLUMNS, rows, footer=result.ratio_cells(), caption=caption)


def _curves(png: Path) -> Html:
    caption = (
        "Left the loss, right the accuracy, after each epoch. Solid lines are validation pictures, which the networks "
        "do not train on; dotted lines are the training pictures, scored while the weights still move, with smoothed "
        "labels, which keeps that loss above zero. Peaks of the validation loss in early epochs, when averages inside "
        "the networks lag behind the weights, may leave the picture."
    )
    return figure(png, alt="Loss and accuracy of both networks over the epochs", caption=caption)


def _explanation() -> Html:
    drawing = files("dynaconv.demo").joinpath("equation.svg").read_text(encoding="utf-8")
    return join(
        [
            paragraph(
                "A convolution multiplies each patch of its input by a matrix W, its kernel. Usually W is learned "
                "once and then stays. Here it is put together anew for each input x:"
            ),
            Html(
                '<p class="equation">W(x) = <b>Λ</b>(x) W<sub>0</sub> + P <b>Φ</b>(x) Q<sup>T</sup></p>'
                f"<figure>{drawing}</figure>"
            ),
            Html(
                "<ul>"
                "<li><b>W<sub>0</sub></b> is an ordinary kernel, the same for every picture.</li>"
                "<li><b>Λ(x)</b> is diagonal: one factor for each output channel. It turns channels of "
                "W<sub>0</sub> up or down; 1 leaves a channel as it is.</li>"
                "<li><b>P Φ(x) Q<sup>T</sup></b> adds something new. Q<sup>T</sup> sums the input up in L "
                "numbers, Φ(x) mixes them in a way chosen for this picture, and P spreads the result over the output "
                "channels. L is much smaller than the number of channels, so this part is cheap.</li>"
                "</ul>"
            ),
            paragraph(
                "A small branch computes Λ(x) and Φ(x): it averages the input over the picture and passes that through "
                "two little linear layers. Everything is trained together, as any network is. The method is dynamic "
                "convolution decomposition (DCD; Li et al., ICLR 2021, arXiv:2103.08756)."
            ),
        ]
    )


def _coefficients(png: Path, layers: Sequence[LayerCoefficients], moved: str) -> Html:
    shown = choose_layer(layers)
    chance = next(iter(shown.parts.values())).share_by_chance
    reading = (
        "Each coloured cell says how the average Λ or Φ of one class differs from the average over all classes, red "
        "for more and blue for less: rows and maps that look different mean that the network uses different kernels "
        "for different letters. The curve at the bottom says how much of all the variation of Λ and Φ goes with the "
        f"class, layer by layer; {chance:.1%} would come out if the class made no difference."
    )
    first, last = layers[0], layers[-1]
    trend = (
        f"In the first dynamic layer it is {first.share_between:.0%}, in the last {last.share_between:.0%}, and "
        f"most in {shown.name}, with {shown.share_between:.0%}, the layer shown here."
    )
    silent = sum(entry.share_between == 0 for entry in layers)
    if silent:
        trend += (
            f" In {silent} of the {len(layers)} layers Λ and Φ are the same for every picture: their branch fell "
            "silent in training, and they work as static layers."
        )
    alt = (
        "Heat map of Lambda by class and channel, maps of Phi by class, and share of variance between classes by layer"
    )
    return join([paragraph(moved), paragraph(reading), paragraph(trend), figure(png, alt=alt)])


def _pictures(result: DemoResult, pictures: Pictures) -> Html:
    right = [network.correct for network in result.networks]
    total = len(right[0])
    mistakes = [index for index in range(total) if not all(correct[index] for correct in right)]
    # The least sure first: those are the ones worth a look.
    sureness = (pictures.probabilities[0].amax(1) + pictures.probabilities[1].amax(1)).tolist()
    correct = sorted(set(range(total)) - set(mistakes), key=sureness.__getitem__)
    parts = [paragraph(_mistakes_sentence(result, len(mistakes)))]
    if mistakes:
        parts.append(_cards(result, pictures, mistakes[:MAX_MISTAKES]))
    if correct:
        parts.append(Html("<h3>Right, though less sure than elsewhere</h3>"))
        parts.append(_cards(result, pictures, correct[:RIGHT_PICTURES]))
    return join(parts)


def _mistakes_sentence(result: DemoResult, mistakes: int) -> str:
    static, dynamic = result.networks
    total = len(static.correct)
    if not mistakes:
        return f"Neither network is wrong on any of the {total} held-out pictures."
    both = sum(not (a or b) for a, b in zip(static.correct, dynamic.correct, strict=True))
    wrong = [total - sum(network.correct) for network in (static, dynamic)]
    cut = f" The first {MAX_MISTAKES} of these {mistakes} pictures:" if mistakes > MAX_MISTAKES else " Here they are:"
    return (
        f"Of {total} held-out pictures {static.title} is wrong on {wrong[0]} and {dynamic.title} on {wrong[1]}; "
        f"{both} of them are the same.{cut}"
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
    said = text(f"{mark}{class_names[best]} ({float(probabilities[best]):.0%})")
    return f'<div class="{kind}"><span>{text(network.title)}</span><span>{said}</span></div>'


def _next_steps(folder: Path) -> Html:
    dynamic = load_recipe("fashion-mnist").model["name"]
    static = dynamic.replace("dcd_", "static_")
    weights = shlex.quote(str(folder / "dcd"))
    return join(
        [
            paragraph("Another seed, to see how far the result moves by itself:"),
            code_block("dynaconv demo --seed 1"),
            paragraph("Ask the trained network about pictures of your own, one letter each:"),
            code_block(f"dynaconv predict --checkpoint {weights} PICTURE.png"),
            paragraph("Clothes instead of letters, first dynamic, then the static twin:"),
            code_block(
                f"dynaconv train --recipe fashion-mnist\ndynaconv train --recipe fashion-mnist --model {static}"
            ),
            paragraph("A dynamic layer in your own network, and the kernel it uses for each picture:"),
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
