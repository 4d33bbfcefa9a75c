"""Figures of a dynamic network's statistics on a data set: use of kernels, coefficients by depth, suppression."""

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

from dynaconv.explain.coefficients import symbol
from dynaconv.explain.figures import COLOURS, TITLE_STYLE, new_figure, style_axes
from dynaconv.explain.statistics import QUANTILE_LEVELS, LayerStatistics, NetworkStatistics
from dynaconv.explain.suppression import Columns, LayerSuppression, Suppression

DEPTH_COLOURS = "viridis"
MAX_POINTS = 400
"""Maximum number of columns per factor and layer in the scatter plot; evenly spaced by rank if there are more."""


def kernel_usage(statistics: NetworkStatistics) -> Figure:
    """Plot the mean share of the weight of each kernel, by layer, and the entropies of the shares.

    Raises:
        ValueError: No layer mixes kernels.
    """
    layer_uses = [(layer, use) for layer in statistics.layers if (use := layer.kernels) is not None]
    if not layer_uses:
        raise ValueError(
            "no layer mixes several kernels; this figure is for networks with CondConv, DY-Conv or ODConv layers."
        )
    figure = new_figure(10.5, 1.9 + 0.3 * len(layer_uses))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.15, 1])
    width = max(len(use.usage) for _, use in layer_uses)
    shares = torch.full((len(layer_uses), width), math.nan)
    for row, (_, use) in enumerate(layer_uses):
        shares[row, : len(use.usage)] = use.usage
    image = left.imshow(shares.numpy(), aspect="auto", cmap="cividis", vmin=0, vmax=float(shares.nan_to_num().max()))
    _write_cells(left, shares)
    left.set_title("Mean share of each kernel", **TITLE_STYLE)
    left.set_xlabel("kernel")
    left.set_xticks(range(width), [str(k + 1) for k in range(width)])
    left.set_yticks(range(len(layer_uses)), [layer.name or layer.kind for layer, _ in layer_uses])
    figure.colorbar(image, ax=left, pad=0.01)
    rows = range(len(layer_uses))
    right.hlines(
        rows,
        [use.entropy for _, use in layer_uses],
        [use.usage_entropy for _, use in layer_uses],
        color="0.75",
        linewidth=4,
    )
    right.plot([use.entropy for _, use in layer_uses], rows, "o", color=COLOURS[0], label="of one image, averaged")
    right.plot([use.usage_entropy for _, use in layer_uses], rows, "D", color=COLOURS[1], label="of the average image")
    right.set_title("Entropy of the shares / log K", **TITLE_STYLE)
    right.set_xlabel(
        "0: one kernel has all the weight, 1: equal shares\ndifference of the two: dependence on the input"
    )
    right.set_xlim(-0.03, 1.03)
    right.grid(True, axis="x", color="0.9", linewidth=0.8)
    right.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=9)
    return figure


def _write_cells(axes: Axes, shares: Tensor) -> None:
    """Write the numbers into the cells, dark on light cells and light on dark ones."""
    middle = float(shares.nan_to_num().max()) / 2
    for row, column in torch.nonzero(shares.isfinite()).tolist():
        value = float(shares[row, column])
        colour = "black" if value > middle else "white"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)


def coefficients_by_depth(statistics: NetworkStatistics) -> Figure:
    """Plot the distribution of each part by layer.

    There is one panel per part. Vectors (Lambda, attention to channels, attention over kernels, ...) show the median,
    the quartiles and the 5th to 95th percentile over all images and elements. Phi shows the mean and the standard
    deviation of its norm over the images.
    """
    layers = statistics.layers
    names = list(dict.fromkeys(name for layer in layers for name in layer.parts))
    figure = new_figure(10.5, 2.7 * len(names) + 0.4)
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
    percent = [f"{level:.0%}" for level in QUANTILE_LEVELS]
    axes.vlines(at, low, high, color=COLOURS[5], linewidth=2, label=f"{percent[0]} to {percent[-1]}")
    axes.vlines(at, quarter, upper, color=COLOURS[0], linewidth=7, label=f"{percent[1]} to {percent[3]}")
    axes.plot(at, median, "_", color="black", markersize=13, markeredgewidth=2, label="median")
    kind = next(layer.kind for layer in layers if name in layer.parts)
    letter = symbol(name, kind)
    title = f"{letter}: all values" if len(letter) == 1 else f"Attention to {letter}: all values"
    style_axes(axes, f"{title}, over images and elements", letter if len(letter) == 1 else "attention", _DEPTH)
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
    style_axes(axes, f"{letter}: Frobenius norm", f"‖{letter}‖", _DEPTH)
    axes.set_ylim(bottom=0)
    _legend_beside(axes)


_DEPTH = "dynamic layer, from input to output"


def _legend_beside(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)


def suppression_scatter(networks: Mapping[str, Suppression]) -> Figure:
    """Plot the gradient of every column against the coefficient that scales it, log-log, one panel per network.

    Colours show the depth. DCD has two panels: the first shows the gradients against the column's own entry of Phi,
    the second against the whole row or column of Phi, which couples the column to the others.

    Args:
        networks: Measurements by title.

    Raises:
        ValueError: `networks` is empty.
    """
    panels: list[tuple[str, Suppression, bool]] = []
    for title, suppression in networks.items():
        panels.append((title, suppression, False))
        if any(layer.method == "dcd" for layer in suppression.layers):
            panels.append((title, suppression, True))
    if not panels:
        raise ValueError("`networks` is empty; pass at least one result of `measure_suppression`.")
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(0.6 + 4.3 * max(columns, 2), 0.4 + 4.2 * rows)
    grid = figure.subplots(rows, max(columns, 2) if len(panels) == 1 else columns, squeeze=False)
    used = list(grid.flat)[: len(panels)]
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    depth = Normalize(1, max(2, *(len(suppression.layers) for _, suppression, _ in panels)))
    for axes, (title, suppression, whole_row) in zip(used, panels, strict=True):
        _scatter(axes, title, suppression, whole_row, depth)
    bar = figure.colorbar(ScalarMappable(depth, DEPTH_COLOURS), ax=used, pad=0.01, aspect=30 * rows)
    bar.set_label("dynamic layer, from input to output")
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _scatter(axes: Axes, title: str, suppression: Suppression, whole_row: bool, depth: Normalize) -> None:
    shades = colormaps[DEPTH_COLOURS]
    for number, layer in enumerate(suppression.layers, start=1):
        for factor in (layer.outputs, layer.inputs):
            x, y = _points(factor, whole_row)
            axes.plot(x, y, "o", markersize=3, alpha=0.55, markeredgewidth=0, color=shades(depth(number)))
    correlation = suppression.average("correlation" if whole_row else "own_correlation")
    value = "not defined" if correlation is None else f"{correlation:+.2f}"
    style_axes(
        axes, f"{title}\nrank correlation {value}", "gradient at the column", _axis_label(suppression.layers, whole_row)
    )
    if any(len(line.get_xdata()) for line in axes.get_lines()):  # type: ignore[arg-type]
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(NullFormatter())
    else:
        axes.text(0.5, 0.5, "no gradient reaches any column", ha="center", transform=axes.transAxes, color="0.4")


def _points(factor: Columns, whole_row: bool) -> tuple[Any, Any]:
    x = factor.coefficients if whole_row else factor.own
    order = x.argsort()
    if len(order) > MAX_POINTS:
        order = order[torch.linspace(0, len(order) - 1, MAX_POINTS).round().long()]
    x, y = x[order], factor.gradients[order]
    shown = (x > 0) & (y > 0)
    return x[shown].numpy(), y[shown].numpy()


def _axis_label(layers: Sequence[LayerSuppression], whole_row: bool) -> str:
    if all(layer.method == "mixture" for layer in layers):
        return "its coefficient: mean π$_k$ · s$_i$"
    return "its row or column of Φ: mean norm" if whole_row else "its own coefficient: mean |Φ$_{jj}$|"
