"""Figures of training runs and of dynamic coefficients.

Each function returns a `matplotlib.figure.Figure` without a window or pyplot state; `save` writes it.
"""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from dynaconv.errors import listed
from dynaconv.explain.coefficients import LayerCoefficients, PartStatistics, coefficient_info, symbol
from dynaconv.files import replacing

# Okabe and Ito's palette, distinguishable with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MAX_CLASSES = 12
MAX_CHANNELS = 128
DPI = 144


def png_bytes(figure: Figure) -> bytes:
    """Return the figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(png_bytes(figure))
    return path


def read_metrics(path: Path) -> dict[str, list[float]]:
    """Return the columns of a run's `metrics.csv` as numbers; an empty cell is NaN."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{path} has no rows; the run stopped before its first epoch ended.")
    return {name: [float(row[name]) if row[name] else math.nan for row in rows] for name in rows[0]}


def training_curves(runs: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Plot loss and accuracy of several runs over the epochs.

    Args:
        runs: Results of `read_metrics` by name, with the columns `epoch`, `train_loss`, `val_loss`, `train_acc` and
            `val_acc` (0 to 1). The `val_` columns of a run without validation images have no numbers.
    """
    figure = new_figure(10, 4.5)
    loss, accuracy = figure.subplots(1, 2)
    best: list[str] = []
    for (name, columns), colour in zip(runs.items(), colour_cycle(len(runs)), strict=True):
        epochs = columns["epoch"]
        marker = "o" if len(epochs) < 3 else None
        for axes, quantity in ((loss, "loss"), (accuracy, "acc")):
            train, validation = columns[f"train_{quantity}"], columns.get(f"val_{quantity}", [])
            axes.plot(
                epochs,
                train,
                color=colour,
                linestyle=(0, (2, 2)),
                linewidth=1.3,
                marker=marker,
                markerfacecolor="white",
                label=f"{name}, training",
            )
            if not all(math.isnan(value) for value in validation):
                axes.plot(epochs, validation, color=colour, linewidth=2, marker=marker, label=f"{name}, validation")
        known = [value for value in columns.get("val_acc", []) if not math.isnan(value)]
        best += [f"{name} {max(known):.1%}"] if known else []
    style_axes(loss, "Loss", "cross-entropy")
    style_axes(accuracy, f"Accuracy (best validation: {', '.join(best)})" if best else "Accuracy", "accuracy")
    loss.set_ylim(0, _loss_limit(runs))
    accuracy.set_ylim(_accuracy_floor(runs), 1.01)
    if max(len(columns["epoch"]) for columns in runs.values()) == 1:
        # The default limits around a single epoch would give fractional ticks only.
        for axes in (loss, accuracy):
            axes.set_xlim(0, 2)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    handles, labels = accuracy.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _loss_limit(runs: Mapping[str, Mapping[str, Sequence[float]]]) -> float | None:
    """Return the upper limit of the loss axis. High peaks of the validation loss in early epochs are cut off."""
    train = [value for columns in runs.values() for value in columns["train_loss"] if math.isfinite(value)]
    return 1.3 * max(train) if train and max(train) > 0 else None


def _accuracy_floor(runs: Mapping[str, Mapping[str, Sequence[float]]]) -> float:
    """Return the lower limit of the accuracy axis, so that the marker of the lowest point is fully visible."""
    columns = [run.get(f"{phase}_acc", ()) for run in runs.values() for phase in ("train", "val")]
    low = min((value for column in columns for value in column if math.isfinite(value)), default=0.0)
    return low - 0.05 * (1.01 - low)


def class_coefficients(
    layers: Sequence[LayerCoefficients],
    class_names: Sequence[str],
    *,
    layer: str | None = None,
) -> Figure:
    """Plot how one layer's coefficients differ between classes, and the between-class variance of every layer.

    There is one panel per part. It shows the class means minus their average over classes: for a vector (Lambda,
    attention) by channel or kernel, for a matrix (Phi) as one small map per class. The last panel shows, by depth, the
    between-class share of the variance of each part.

    Args:
        layers: Results of `collect_coefficients`.
        class_names: One name per class. At most 12 classes are shown, those with means farthest from the average.
        layer: Name of the layer to show; None for the layer that `choose_layer` chooses.

    Raises:
        ValueError: `layers` is empty or has no layer of that name.
    """
    shown = choose_layer(layers, layer)
    classes = _classes_to_show(shown)
    map_rows = math.ceil(len(classes) / _map_columns(len(classes)))
    headline = _headline(shown)
    heights = [0.3 + 0.25 * len(headline.splitlines())]
    heights += [
        1.3 + 0.22 * len(classes) if part.mean.dim() == 1 else 0.6 + 2.0 * map_rows for part in shown.parts.values()
    ]
    heights += [3.0]
    figure = new_figure(10.5, sum(heights))
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    panels = [figure.add_subfigure(grid[row]) for row in range(len(heights))]
    head = panels.pop(0)
    head.text(0.01, 0.5, headline, fontsize=13, fontweight="bold", va="center")
    names = [class_names[index] for index in classes]
    for name, part in shown.parts.items():
        if part.mean.dim() == 1:
            _vector_heat_map(panels.pop(0), shown, name, classes, names)
        else:
            _matrix_maps(panels.pop(0), shown, name, classes, names)
    _share_by_depth(panels.pop(0), layers, shown)
    return figure


def choose_layer(layers: Sequence[LayerCoefficients], name: str | None = None) -> LayerCoefficients:
    """Return the named layer, or the layer with the largest between-class share among those with the most parts."""
    if not layers:
        raise ValueError("`layers` is empty; pass results of `collect_coefficients`.")
    if name is not None:
        for entry in layers:
            if entry.name == name:
                return entry
        raise ValueError(
            f"no dynamic layer has the name {name!r}; the names are {', '.join(entry.name for entry in layers)}."
        )
    most = max(len(entry.parts) for entry in layers)
    return max((entry for entry in layers if len(entry.parts) == most), key=lambda entry: entry.share_between)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, size in inches, with a margin."""
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))


def _headline(shown: LayerCoefficients) -> str:
    shares = [f"{part.share_between:.0%} of {symbol(name, shown.kind)}" for name, part in shown.parts.items()]
    headline = (
        f"Layer {shown.name or shown.kind}: the class explains {listed(shares, quote=False)} (share of the variance)"
    )
    return textwrap.fill(headline, 95)


def _vector_heat_map(
    panel: SubFigure, shown: LayerCoefficients, name: str, classes: list[int], class_names: list[str]
) -> None:
    deviations = _deviations(shown.parts[name], classes)
    total = deviations.shape[1]
    letter = symbol(name, shown.kind)
    coefficient = coefficient_info(name, shown.kind)
    element = coefficient.element if coefficient is not None else "output channel"
    channels = list(range(total)) if element == "kernel" else _channels_to_show(deviations)
    deviations = deviations[:, channels]
    axes = panel.subplots()
    image = axes.imshow(
        deviations.numpy(), aspect="auto", interpolation="nearest", cmap="RdBu_r", norm=_symmetric(deviations)
    )
    axes.set_title(f"{_subject(shown, name)}: class mean minus average over classes", **TITLE_STYLE)
    axes.set_ylabel("class")
    axes.set_yticks(range(len(class_names)), class_names)
    if element == "kernel":
        axes.set_xlabel("kernel")
        axes.set_xticks(range(total), [str(k + 1) for k in range(total)])
    else:
        subset = f"{len(channels)} of {total}, the strongest of each class" if len(channels) < total else f"all {total}"
        axes.set_xlabel(f"{element} ({subset}; grouped by the class with the largest deviation)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.colorbar(image, ax=axes, pad=0.01, label=f"change of {_inline(letter)}")


def _matrix_maps(
    panel: SubFigure, shown: LayerCoefficients, name: str, classes: list[int], class_names: list[str]
) -> None:
    deviations, note = _as_matrices(_deviations(shown.parts[name], classes))
    columns = _map_columns(len(classes))
    rows = math.ceil(len(classes) / columns)
    grid = panel.subplots(rows, columns, squeeze=False)
    norm = _symmetric(deviations)
    letter = symbol(name, shown.kind)
    height, width = deviations.shape[1:]
    subject = f"Φ mixes the {width} latent channels" if name == "fusion" else _subject(shown, name)
    panel.suptitle(
        f"{subject}: class mean minus average over classes, {height} x {width}{note}",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    image: Any = None
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, matrix, label in zip(grid.flat, deviations, class_names, strict=False):
        axes.set_axis_on()
        image = axes.imshow(matrix.numpy(), cmap="RdBu_r", norm=norm, interpolation="nearest")
        axes.set_title(label, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    panel.colorbar(image, ax=list(grid.flat), pad=0.01, label=f"change of {_inline(letter)}", aspect=12 * rows)


def _subject(shown: LayerCoefficients, name: str) -> str:
    """Return the symbol of a part and its effect; a part whose symbol is not a single letter is an attention."""
    letter, coefficient = symbol(name, shown.kind), coefficient_info(name, shown.kind)
    return (
        f"{letter} {coefficient.act if coefficient is not None else ''}".strip()
        if len(letter) == 1
        else f"Attention to {letter}"
    )


def _inline(letter: str) -> str:
    return letter if len(letter) == 1 else "attention"


def _map_columns(classes: int) -> int:
    """Return the number of columns; 2 to 6, 8, 10 and 12 classes fill all rows."""
    return classes if classes <= 6 else math.ceil(classes / 2)


def _share_by_depth(panel: SubFigure, layers: Sequence[LayerCoefficients], shown: LayerCoefficients) -> None:
    axes = panel.subplots()
    parts = list(dict.fromkeys(name for entry in layers for name in entry.parts))
    positions = range(1, len(layers) + 1)
    for name, style in zip(parts, point_styles(len(parts)), strict=True):
        shares = [entry.parts[name].share_between if name in entry.parts else math.nan for entry in layers]
        axes.plot(positions, shares, markersize=5, linewidth=1.5, label=symbol(name, shown.kind), **style)
    chance = next(iter(shown.parts.values())).share_by_chance
    axes.axhline(chance, color="0.45", linestyle=(0, (4, 3)), linewidth=1, label="if classes made no difference")
    axes.axvline(1 + list(layers).index(shown), color="0.75", linewidth=7, alpha=0.5, zorder=0, label="layer above")
    style_axes(
        axes,
        "Share of the variance between classes, by depth",
        "share",
        "dynamic layer, from input to output",
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(bottom=0)
    axes.set_xlim(0.5, len(layers) + 0.5)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)


def _deviations(part: PartStatistics, classes: list[int]) -> Tensor:
    """Return the class means minus the average over all non-empty classes, (len(classes), *shape)."""
    present = part.counts > 0
    return part.class_means[classes] - part.class_means[present].mean(0)


def _as_matrices(values: Tensor) -> tuple[Tensor, str]:
    """Reduce class means of Phi to one matrix per class: the block or slice of L_k that differs most, and its label.

    Args:
        values: (K, L, L), (K, blocks, L, L), (K, L, L, L_k) or (K, blocks, L, L, L_k).
    """
    if values.dim() == 3:
        return values, ""
    blocks_only = values.dim() == 4 and values.shape[-1] == values.shape[-2]
    stacked = values if blocks_only else values.movedim(-1, 1)
    stacked = stacked.flatten(1, -3)
    strength = stacked.square().sum(dim=(0, 2, 3))
    index = int(strength.argmax())
    kind = "block" if blocks_only else "slice"
    return stacked[:, index], f", {kind} {index + 1} of {len(strength)}"


def _classes_to_show(shown: LayerCoefficients) -> list[int]:
    part = next(iter(shown.parts.values()))
    present = torch.nonzero(part.counts > 0).flatten()
    distance = (part.class_means[present] - part.mean).flatten(1).square().sum(1)
    farthest = present[distance.argsort(descending=True)[:MAX_CLASSES]]
    return sorted(int(index) for index in farthest)


def _channels_to_show(deviations: Tensor) -> list[int]:
    """Return at most `MAX_CHANNELS` channels, grouped by the class with the largest deviation, in descending order.

    Rows are normalised first and each class has the same quota, so that one class with large deviations does not fill
    the picture. The strongest of the remaining channels fill the unused quotas.

    Args:
        deviations: (K, C).
    """
    rms = deviations.square().mean(1, keepdim=True).sqrt().clamp(min=1e-30)
    normalised = deviations / rms
    values, strongest_class = normalised.abs().max(0)
    ranked = values.argsort(descending=True).tolist()
    quota = MAX_CHANNELS // len(deviations)
    counts = [0] * len(deviations)
    selected: list[int] = []
    remaining: list[int] = []
    for channel in ranked:
        row = int(strongest_class[channel])
        (selected if counts[row] < quota else remaining).append(channel)
        counts[row] += 1
    selected += remaining[: MAX_CHANNELS - len(selected)]
    return sorted(
        selected,
        key=lambda channel: (int(strongest_class[channel]), -float(normalised[strongest_class[channel], channel])),
    )


def _symmetric(values: Tensor) -> Normalize:
    """Return a colour scale around zero up to the 99.5th percentile, so that outliers do not dominate it."""
    limit = float(torch.quantile(values.abs().flatten().float(), 0.995)) or 1.0
    return Normalize(-limit, limit)


def colour_cycle(count: int) -> list[str]:
    """Return `count` colours, repeating the palette if it is too short."""
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def point_styles(count: int) -> list[dict[str, Any]]:
    """Return the colours and markers of `count` series of points; the first 56 pairs differ."""
    markers = islice(cycle("os^DvPX*"), count)
    return [{"color": colour, "marker": marker} for colour, marker in zip(colour_cycle(count), markers, strict=True)]


TITLE_STYLE: dict[str, Any] = {"loc": "left", "fontsize": 11}


def style_axes(axes: Axes, title: str, ylabel: str, xlabel: str = "epoch") -> None:
    """Set title, labels and grid in the common style."""
    axes.set_title(title, **TITLE_STYLE)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    light_grid(axes)


def light_grid(axes: Axes) -> None:
    """Draw a light grid behind the data, and no frame at the top and the right."""
    axes.grid(True, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
