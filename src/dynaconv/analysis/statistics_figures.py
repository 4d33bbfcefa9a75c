"""Figures of what a dynamic network computes on a data set: use of kernels, coefficients by depth, suppression."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from torch import Tensor

from dynaconv.analysis.coefficients import symbol
from dynaconv.analysis.figures import _TITLE, COLOURS, _figure, _style
from dynaconv.analysis.statistics import LEVELS, LayerStatistics, NetworkStatistics
from dynaconv.analysis.suppression import Columns, LayerSuppression, Suppression

DEPTH_COLOURS = "viridis"
MAX_POINTS = 400
"""Columns of one factor of one layer that the scatter shows; evenly spaced by coefficient where there are more."""


def kernel_usage(statistics: NetworkStatistics) -> Figure:
    """Share of the weight that each kernel has on average, by layer, and beside it the entropies.

    Raises:
        ValueError: No layer mixes kernels.
    """
    found = [(layer, use) for layer in statistics.layers if (use := layer.kernels) is not None]
    if not found:
        raise ValueError("no layer weights several kernels; the figure is for CondConv, DY-Conv and ODConv.")
    figure = _figure(10.5, 1.9 + 0.3 * len(found))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.15, 1])
    width = max(len(use.usage) for _, use in found)
    shares = torch.full((len(found), width), math.nan)
    for row, (_, use) in enumerate(found):
        shares[row, : len(use.usage)] = use.usage
    image = left.imshow(shares.numpy(), aspect="auto", cmap="cividis", vmin=0, vmax=float(shares.nan_to_num().max()))
    _write_cells(left, shares)
    left.set_title("Mean share of each kernel", **_TITLE)
    left.set_xlabel("kernel")
    left.set_xticks(range(width), [str(k + 1) for k in range(width)])
    left.set_yticks(range(len(found)), [layer.name or layer.kind for layer, _ in found])
    figure.colorbar(image, ax=left, pad=0.01)
    rows = range(len(found))
    right.hlines(
        rows, [use.entropy for _, use in found], [use.usage_entropy for _, use in found], color="0.75", linewidth=4
    )
    right.plot([use.entropy for _, use in found], rows, "o", color=COLOURS[0], label="of one image, averaged")
    right.plot([use.usage_entropy for _, use in found], rows, "D", color=COLOURS[1], label="of the average image")
    right.set_title("Entropy of the shares / log K", **_TITLE)
    right.set_xlabel("0: one kernel has all, 1: all alike\nbetween the two: what the input decides")
    right.set_xlim(-0.03, 1.03)
    right.grid(True, axis="x", color="0.9", linewidth=0.8)
    right.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=9)
    return figure


def _write_cells(axes: Axes, shares: Tensor) -> None:
    """The numbers into the cells, dark on light and light on dark."""
    middle = float(shares.nan_to_num().max()) / 2
    for row, column in torch.nonzero(shares.isfinite()).tolist():
        value = float(shares[row, column])
        colour = "black" if value > middle else "white"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)


def coefficients_by_depth(statistics: NetworkStatistics) -> Figure:
    """How each part is distributed, layer after layer.

    A panel for each part that multiplies (Lambda, attention to channels, ...): median, quartiles and the 5th to 95th
    percentile over all images and elements; for Phi its norm, mean and standard deviation over the images; for
    attention over kernels as for what multiplies.
    """
    layers = statistics.layers
    names = list(dict.fromkeys(name for layer in layers for name in layer.parts))
    figure = _figure(10.5, 2.7 * len(names) + 0.4)
    grid = figure.subplots(len(names), 1, squeeze=False)
    for axes, name in zip(grid[:, 0], names, strict=True):
        if any(name in layer.parts and layer.parts[name].role == "matrix" for layer in layers):
            _norms(axes, layers, name)
        else:
            _quantiles(axes, layers, name)
        axes.set_xlim(0.5, len(layers) + 0.5)
    return figure


def _quantiles(axes: Axes, layers: Sequence[LayerStatistics], name: str) -> None:
    at = [index + 1 for index, layer in enumerate(layers) if name in layer.parts]
    parts = [layer.parts[name] for layer in layers if name in layer.parts]
    low, quarter, median, upper, high = torch.stack([part.quantiles for part in parts]).T.tolist()
    percent = [f"{level:.0%}" for level in LEVELS]
    axes.vlines(at, low, high, color=COLOURS[5], linewidth=2, label=f"{percent[0]} to {percent[-1]}")
    axes.vlines(at, quarter, upper, color=COLOURS[0], linewidth=7, label=f"{percent[1]} to {percent[3]}")
    axes.plot(at, median, "_", color="black", markersize=13, markeredgewidth=2, label="median")
    kind = next(layer.kind for layer in layers if name in layer.parts)
    letter = symbol(name, kind)
    title = f"{letter}: all values" if len(letter) == 1 else f"Attention to {letter}: all values"
    _style(axes, f"{title}, over images and elements", letter if len(letter) == 1 else "attention", _DEPTH)
    _legend_beside(axes)


def _norms(axes: Axes, layers: Sequence[LayerStatistics], name: str) -> None:
    at = [index + 1 for index, layer in enumerate(layers) if name in layer.parts]
    norms = [layer.parts[name].measures["norm"] for layer in layers if name in layer.parts]
    means = [float(norm.mean) for norm in norms]
    spread = [float(norm.deviation) for norm in norms]
    axes.errorbar(
        at, means, yerr=spread, fmt="o", color=COLOURS[1], capsize=3, label="mean, and standard\ndeviation over images"
    )
    letter = symbol(name, next(layer.kind for layer in layers if name in layer.parts))
    _style(axes, f"{letter}: Frobenius norm", f"‖{letter}‖", _DEPTH)
    axes.set_ylim(bottom=0)
    _legend_beside(axes)


_DEPTH = "dynamic layer, from input to output"


def _legend_beside(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)


def suppression_scatter(networks: Mapping[str, Suppression]) -> Figure:
    """Gradient of every column against the coefficient that scales it, log-log, one panel for each network.

    Colours tell the depth. For DCD a first panel shows the gradients against the column's own entry of Phi, a second
    against the whole row or column of Phi, through which it is joined with the others.

    Args:
        networks: By title.

    Raises:
        ValueError: Nothing to show.
    """
    panels: list[tuple[str, Suppression, bool]] = []
    for title, found in networks.items():
        panels.append((title, found, False))
        if any(layer.method == "dcd" for layer in found.layers):
            panels.append((title, found, True))
    if not panels:
        raise ValueError("`networks` is empty; measure suppression first.")
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    figure = _figure(0.6 + 4.3 * max(columns, 2), 0.4 + 4.2 * rows)
    grid = figure.subplots(rows, max(columns, 2) if len(panels) == 1 else columns, squeeze=False)
    used = list(grid.flat)[: len(panels)]
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    depth = Normalize(1, max(2, *(len(found.layers) for _, found, _ in panels)))
    for axes, (title, found, joined) in zip(used, panels, strict=True):
        _scatter(axes, title, found, joined, depth)
    bar = figure.colorbar(ScalarMappable(depth, DEPTH_COLOURS), ax=used, pad=0.01, aspect=30 * rows)
    bar.set_label("dynamic layer, from input to output")
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _scatter(axes: Axes, title: str, found: Suppression, joined: bool, depth: Normalize) -> None:
    shades = colormaps[DEPTH_COLOURS]
    for number, layer in enumerate(found.layers, start=1):
        for side in (layer.outputs, layer.inputs):
            x, y = _points(side, joined)
            axes.plot(x, y, "o", markersize=3, alpha=0.55, markeredgewidth=0, color=shades(depth(number)))
    correlation = found.average("correlation" if joined else "own_correlation")
    said = "not defined" if correlation is None else f"{correlation:+.2f}"
    _style(axes, f"{title}\nrank correlation {said}", "gradient at the column", _axis_label(found.layers, joined))
    if any(len(line.get_xdata()) for line in axes.get_lines()):  # type: ignore[arg-type]
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(NullFormatter())
    else:
        axes.text(0.5, 0.5, "no gradient reaches any column", ha="center", transform=axes.transAxes, color="0.4")


def _points(side: Columns, joined: bool) -> tuple[Any, Any]:
    x = side.coefficients if joined else side.own
    order = x.argsort()
    if len(order) > MAX_POINTS:
        order = order[torch.linspace(0, len(order) - 1, MAX_POINTS).round().long()]
    x, y = x[order], side.gradients[order]
    shown = (x > 0) & (y > 0)
    return x[shown].numpy(), y[shown].numpy()


def _axis_label(layers: Sequence[LayerSuppression], joined: bool) -> str:
    if all(layer.method == "mixture" for layer in layers):
        return "its coefficient: mean π$_k$ · s$_i$"
    return "joined: its row or column of Φ, mean norm" if joined else "its own coefficient: mean |Φ$_{jj}$|"
