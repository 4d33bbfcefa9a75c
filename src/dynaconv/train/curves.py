"""A picture of a run: loss and accuracy by epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynaconv.train.files import replacing

# A colour-blind-safe pair.
_TRAIN, _VALIDATION = "#0072b2", "#d55e00"


def draw_curves(path: Path, rows: Sequence[Mapping[str, Any]], *, title: str) -> None:
    """Draw loss and accuracy of the metrics table to a PNG.

    Args:
        path: The file to write.
        rows: Rows of ``metrics.csv``.
        title: Heading of the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, quantity, label in zip(
        figure.subplots(1, 2), ("loss", "acc"), ("cross-entropy", "accuracy"), strict=True
    ):
        for phase, name, colour in (("train", "training", _TRAIN), ("val", "validation", _VALIDATION)):
            points = [(float(r["epoch"]), float(r[f"{phase}_{quantity}"])) for r in rows if _has(r, phase, quantity)]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, label=name, marker="o", markersize=2.5)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_lines():
            axes.legend(frameon=False)
    figure.suptitle(title)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _has(row: Mapping[str, Any], phase: str, quantity: str) -> bool:
    return row.get(f"{phase}_{quantity}") not in (None, "")
