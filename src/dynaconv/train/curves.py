"""Plots the loss and accuracy of a run by epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynaconv.files import replacing

# Two colours that are safe for colour-blind readers.
_TRAIN, _VALIDATION = "#0072b2", "#d55e00"


def draw_curves(path: Path, rows: Sequence[Mapping[str, Any]], *, title: str) -> None:
    """Plot the loss and accuracy of the metrics table to a PNG file.

    Args:
        path: The file to write.
        rows: Rows of ``metrics.csv``.
        title: Title of the figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    for axes, quantity, label in zip(panels, ("loss", "acc"), ("cross-entropy", "accuracy"), strict=True):
        for phase, name, colour in (("train", "training", _TRAIN), ("val", "validation", _VALIDATION)):
            points = [(float(r["epoch"]), float(r[f"{phase}_{quantity}"])) for r in rows if _has(r, phase, quantity)]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, label=name, marker="o", markersize=2.5)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(rows) == 1:
            # With a single epoch the axis would have only fractions.
            axes.set_xlim(float(rows[0]["epoch"]) - 1, float(rows[0]["epoch"]) + 1)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_lines():
            axes.legend(frameon=False)
    panels[1].yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.suptitle(title)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _has(row: Mapping[str, Any], phase: str, quantity: str) -> bool:
    return row.get(f"{phase}_{quantity}") not in (None, "")
