"""Figures of a study: accuracy with intervals, the training loss, accuracy over a sweep."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter, StrMethodFormatter

from dynaconv.explain.figures import COLOURS, colour_cycle, light_grid, new_figure, point_styles
from dynaconv.study import definition
from dynaconv.study.results import Results

# Steps over which a training loss is smoothed.
_SMOOTHING_STEPS = 50
_COSTS = (
    ("native_seconds", 1e6, "native latency, one image, \N{MICRO SIGN}s"),
    ("parameters", 1e-3, "parameters, thousands"),
    ("madds", 1e-6, "multiply-adds, millions"),
)


def draw(figure: definition.Figure, results: Results) -> Figure | None:
    """Draw a figure; None if there are no results for it yet."""
    if figure.kind == "accuracy":
        return _accuracy(figure, results)
    if figure.kind == "rates":
        return _rates(figure, results)
    if figure.kind == "gain":
        return _gain(figure, results)
    if figure.kind == "frontier":
        return _frontier(figure, results)
    return _loss(figure, results, by_second=figure.kind == "loss_by_second")


def _figure(width: float, height: float, title: str) -> tuple[Figure, Any]:
    canvas = new_figure(width, height)
    axes = canvas.subplots()
    axes.set_title(title, loc="left")
    light_grid(axes)
    return canvas, axes


def _accuracy(figure: definition.Figure, results: Results) -> Figure | None:
    """Draw one row per variant: every seed's accuracy as a ring, the mean and its 95 % interval."""
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
    """Draw the training loss: mean over seeds, smoothed, with a band from the minimum to the maximum over seeds."""
    canvas, axes = _figure(8, 4.5, figure.title)
    for name, colour in zip(figure.variants, colour_cycle(len(figure.variants)), strict=True):
        variant = results.variants[name]
        rows = results.mean_trace(name)
        if len(rows) < 2 or (by_second and variant.cost is None):
            continue
        scale = variant.cost["step_seconds"] if by_second and variant.cost is not None else 1
        window = max(1, _SMOOTHING_STEPS // (rows[1][0] - rows[0][0]))
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
    """Return the means of blocks of `window` rows, column by column."""
    parts = [rows[at : at + window] for at in range(0, len(rows), window)]
    return [tuple(sum(column) / len(column) for column in zip(*part, strict=True)) for part in parts]


def _gain(figure: definition.Figure, results: Results) -> Figure | None:
    """Draw the difference of each contrast over the values of the sweep, with its 95 % interval."""
    canvas, axes = _figure(8, 4.5, figure.title)
    contrasts = results.study.contrasts
    for index, (contrast, style) in enumerate(zip(contrasts, point_styles(len(contrasts)), strict=True)):
        points = []
        for name, against in contrast.pairs:
            found = results.variants[name].difference(results.variants[against])
            if name in figure.variants and found is not None:
                # Shifted slightly, so that intervals do not cover each other.
                points.append((_value(name) * 1.02**index, found.mean, found.half_width or 0))
        if points:
            at, means, errors = zip(*points, strict=True)
            axes.errorbar(at, means, yerr=errors, label=contrast.title, markersize=4, capsize=3, **style)
    if not axes.containers:
        return None
    axes.axhline(0, color="0.3", linewidth=1)
    key = _swept_key(figure, results)
    values = [_value(name) for name in figure.variants]
    # Room for the shifted points, also if few values have runs yet.
    limits = min(values) / 1.05, max(values) * 1.05 * 1.02 ** len(contrasts)
    axes.set(xscale="log", xlim=limits, xlabel=key, ylabel="gain in points of test accuracy")
    _ticks(axes, figure)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:+.1f}"))
    axes.legend(frameon=False)
    return canvas


def _frontier(figure: definition.Figure, results: Results) -> Figure | None:
    """Draw mean accuracy and its 95 % interval over native latency, parameters and multiply-adds, by family."""
    families = list(dict.fromkeys(definition.stem(name) for name in figure.variants))
    canvas = new_figure(12, 4.6)
    canvas.suptitle(figure.title, x=0.01, ha="left")
    panels = canvas.subplots(1, 3, sharey=True)
    for axes, (cost, unit, label) in zip(panels, _COSTS, strict=True):
        for family, style in zip(families, point_styles(len(families)), strict=True):
            shown = [results.variants[name] for name in figure.variants if definition.stem(name) == family]
            points = [
                (each.cost[cost] * unit, each.mean.mean, each.mean.half_width or 0)
                for each in shown
                if each.cost is not None and each.cost.get(cost) and each.mean is not None
            ]
            if points:
                at, means, errors = zip(*sorted(points), strict=True)
                title = shown[0].title.rpartition(", ")[0]
                axes.errorbar(at, means, yerr=errors, label=title, markersize=5, capsize=3, **style)
        axes.set(xscale="log", xlabel=label)
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if high < 20 * low else (1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        light_grid(axes)
    if not panels[1].containers:
        return None
    panels[0].set_ylabel("test accuracy")
    panels[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    canvas.legend(*panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return canvas


def _value(variant: str) -> float:
    return float(variant.rpartition("@")[2])


def _swept_key(figure: definition.Figure, results: Results) -> str:
    return results.variants[figure.variants[0]].title.rpartition(", ")[2].rpartition(" ")[0]


def _ticks(axes: Any, figure: definition.Figure) -> None:
    values = sorted(set(map(_value, figure.variants)))
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.xaxis.set_minor_locator(NullLocator())


def _rates(figure: definition.Figure, results: Results) -> Figure | None:
    """Draw accuracy over the values of the sweep, one curve per family; a cross at zero marks a run that diverged.

    It is the validation accuracy, by which rates are chosen, if every finished run has one, else the test accuracy.
    """
    families = list(dict.fromkeys(name.rpartition("@")[0] for name in figure.variants))
    shown = [results.variants[name] for name in figure.variants]
    validated = all(len(variant.val_accuracy) == len(variant.accuracy) for variant in shown)
    canvas, axes = _figure(8, 4.5, figure.title)
    for family, style in zip(families, point_styles(len(families)), strict=True):
        names = [name for name in figure.variants if name.rpartition("@")[0] == family]
        found = [(_value(name), results.variants[name]) for name in names]
        means = [(value, variant.val_mean if validated else variant.mean) for value, variant in found]
        points = [(value, mean.mean) for value, mean in means if mean is not None]
        title = found[0][1].title.rpartition(", ")[0]
        if points:
            axes.plot(*zip(*points, strict=True), label=title, markersize=4, **style)
        lost = [value for value, variant in found if "diverged" in variant.states.values()]
        axes.plot(lost, [0] * len(lost), "x", color=style["color"], label=f"{title}: diverged" if lost else None)
    if not axes.get_lines():
        return None
    label = "validation accuracy" if validated else "test accuracy"
    axes.set(xscale="log", xlabel=_swept_key(figure, results), ylabel=label)
    if any("diverged" in variant.states.values() for variant in shown):
        axes.set_ylim(bottom=-0.03)
    _ticks(axes, figure)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(frameon=False)
    return canvas
