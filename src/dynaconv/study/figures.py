"""Figures of a study: accuracy with intervals, the training loss, accuracy over a sweep."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

from dynaconv.analysis.figures import COLOURS, cycle
from dynaconv.study import definition
from dynaconv.study.results import Results

# Steps over which a training loss is smoothed.
_SMOOTHED = 50


def draw(figure: definition.Figure, results: Results) -> Figure | None:
    """Draw a figure; None where what it shows is not there yet."""
    if figure.kind == "accuracy":
        return _accuracy(figure, results)
    if figure.kind == "rates":
        return _rates(figure, results)
    return _loss(figure, results, by_second=figure.kind == "loss_by_second")


def _figure(width: float, height: float, title: str) -> tuple[Figure, Any]:
    canvas = Figure(figsize=(width, height), layout="constrained")
    axes = canvas.subplots()
    axes.set_title(title, loc="left")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return canvas, axes


def _accuracy(figure: definition.Figure, results: Results) -> Figure | None:
    """One line a variant: every seed's accuracy as a ring, the mean and its 95 % interval."""
    shown = [results.variants[name] for name in figure.variants if results.variants[name].accuracy]
    if not shown:
        return None
    canvas, axes = _figure(8, 1.2 + 0.34 * len(shown), figure.title)
    for row, variant in enumerate(reversed(shown)):
        mean = variant.mean
        assert mean is not None
        colour = COLOURS[1] if variant.name == results.study.reference else COLOURS[0]
        values = list(variant.accuracy.values())
        axes.plot(values, [row] * len(values), "o", color="none", markeredgecolor="0.55", markersize=4)
        axes.errorbar([mean.mean], [row], xerr=mean.half_width, fmt="o", color=colour, capsize=3)
    axes.set_yticks(range(len(shown)), [variant.title for variant in reversed(shown)])
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("test accuracy: every seed, mean and 95 % interval")
    return canvas


def _loss(figure: definition.Figure, results: Results, *, by_second: bool) -> Figure | None:
    """The training loss, mean over seeds, smoothed; the band goes from the least to the greatest seed."""
    canvas, axes = _figure(8, 4.5, figure.title)
    for name, colour in zip(figure.variants, cycle(len(figure.variants)), strict=True):
        variant = results.variants[name]
        rows = results.mean_trace(name)
        if len(rows) < 2 or (by_second and variant.cost is None):
            continue
        scale = variant.cost["step_seconds"] if by_second and variant.cost is not None else 1
        window = max(1, _SMOOTHED // (rows[1][0] - rows[0][0]))
        steps, means, lows, highs = zip(*_smooth(rows, window), strict=True)
        at = [step * scale for step in steps]
        axes.plot(at, means, color=colour, label=variant.title)
        axes.fill_between(at, lows, highs, color=colour, alpha=0.15, linewidth=0)
    if not axes.get_lines():
        return None
    axes.set(xlabel="seconds of training steps" if by_second else "step", ylabel="training loss")
    axes.legend(frameon=False)
    return canvas


def _smooth(rows: Sequence[tuple[float, ...]], window: int) -> list[tuple[float, ...]]:
    """Means over `window` neighbouring rows, column by column."""
    parts = [rows[at : at + window] for at in range(0, len(rows), window)]
    return [tuple(sum(column) / len(column) for column in zip(*part, strict=True)) for part in parts]


def _rates(figure: definition.Figure, results: Results) -> Figure | None:
    """Accuracy over the values of the sweep, a curve a family; a cross on the floor is a run that diverged."""
    families = list(dict.fromkeys(name.rpartition("@")[0] for name in figure.variants))
    canvas, axes = _figure(8, 4.5, figure.title)
    for family, colour in zip(families, cycle(len(families)), strict=True):
        names = [name for name in figure.variants if name.rpartition("@")[0] == family]
        found = [(float(name.rpartition("@")[2]), results.variants[name]) for name in names]
        means = [(value, variant.mean) for value, variant in found]
        points = [(value, mean.mean) for value, mean in means if mean is not None]
        title = found[0][1].title.rpartition(", ")[0]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=colour, label=title, markersize=4)
        lost = [value for value, variant in found if "diverged" in variant.states.values()]
        axes.plot(lost, [0] * len(lost), "x", color=colour, label=f"{title}: diverged" if lost else None)
    if not axes.get_lines():
        return None
    key = results.variants[figure.variants[0]].title.rpartition(", ")[2].rpartition(" ")[0]
    axes.set(xscale="log", xlabel=key, ylabel="test accuracy", ylim=(-0.03, None))
    values = sorted({float(name.rpartition("@")[2]) for name in figure.variants})
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(frameon=False)
    return canvas
