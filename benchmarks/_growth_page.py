"""Tables, figures and comma-separated values of how the cost grows."""

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from _families import labels, networks
from _growth import AXES, AXIS_LABELS, slopes
from _latency_cells import ARCHITECTURES, RUNTIMES
from _latency_page import conditions, short, table, write_blocks
from _latency_store import Row

from dynaconv.errors import counted
from dynaconv.files import write_csv

MARKS = ("<!-- results: python benchmarks/growth.py --page -->", "<!-- end of growth -->")
_COLUMNS = ("axis", "architecture", "side", "runtime", "batch", "threads", "network", "value")
_NUMBERS = ("ms", "low", "high", "rounds", "ratio", "macs")
Panel = tuple[str, str, int]
"""An architecture, a runtime and a number of threads."""


def write(data: Mapping[str, Any], out: Path, page: Path | None) -> list[Path]:
    """Write figures, tables and comma-separated values of what there is; the paths.

    Raises:
        ValueError: The page does not have each of `MARKS` once.
    """
    rows: list[Row] = data["growth"]
    points = out / "growth.csv"
    write_csv(points, (*_COLUMNS, *_NUMBERS), [_values(row) for row in rows])
    figures = {axis: path for axis in AXES if (path := figure(rows, axis, out / f"growth_{axis}.png")) is not None}
    target = write_blocks(out / "growth.md", page, MARKS, partial(blocks, data, figures))
    return [target, points, *figures.values()]


def _values(row: Row) -> Row:
    low, high = row["quartiles"]
    known = row | {"low": low, "high": high}
    return {key: known.get(key, "") for key in (*_COLUMNS, *_NUMBERS)}


def blocks(data: Mapping[str, Any], figures: Mapping[str, Path], folder: Path) -> list[str]:
    """Blocks of Markdown; figures are linked as seen from the folder."""
    rows: list[Row] = data["growth"]
    if not rows:
        return ["## Growth", "Nothing is measured yet."]
    found = ["## Growth", explanation(rows)]
    for axis, title in AXES.items():
        lines = table_rows(rows, axis)
        if lines:
            head = [
                "architecture",
                "runtime",
                "threads",
                "network",
                "from, to",
                "ms",
                "slope",
                "predicted",
                "last / first",
            ]
            found += [f"### With {title}", table([*head, "predicted", "to static"], lines, 5)]
        if axis in figures:
            found.append(f"![Growth with {title}]({os.path.relpath(figures[axis], folder)})")
    return [*found, "### Conditions", "\n".join(conditions(data["sessions"], rows))]


def explanation(rows: Sequence[Row]) -> str:
    """What the columns say."""
    return (
        f"Deployed networks, {rows[0]['side']} pixels a side and a batch of one where nothing else is said. A "
        "slope is that of the logarithm of time against the logarithm of the quantity, by least squares; the predicted "
        "one is that of the multiply-adds as executed (`dynaconv.profile`). The next two columns say how many times as "
        "much the last value takes as the first, measured and predicted; the last one gives the time relative to the "
        "static twin in the same rounds, at the first value and at the last."
    )


def curves(rows: Sequence[Row], axis: str, panel: Panel) -> dict[str, list[Row]]:
    """The rows of each network in order, of those with more than one value."""
    found: dict[str, list[Row]] = {}
    for network in networks():
        mine = [row for row in rows if (row["axis"], row["network"]) == (axis, network)]
        mine = [row for row in mine if (row["architecture"], row["runtime"], row["threads"]) == panel]
        if len(mine) > 1:
            found[network] = sorted(mine, key=lambda row: row["value"])
    return found


def panels(rows: Sequence[Row], axis: str) -> list[Panel]:
    """Architectures, runtimes and threads with curves of an axis."""
    known = {(row["architecture"], row["runtime"], row["threads"]) for row in rows if row["axis"] == axis}
    order = {name: place for place, name in enumerate((*ARCHITECTURES, *RUNTIMES))}
    shown = sorted(known, key=lambda panel: (order[panel[0]], order[panel[1]], panel[2]))
    return [panel for panel in shown if curves(rows, axis, panel)]


def _name(network: str, axis: str) -> str:
    return labels().get(network, networks()[network]) if axis == "kernels" else networks()[network]


def table_rows(rows: Sequence[Row], axis: str) -> list[list[str]]:
    """One row a runtime, number of threads and network."""
    found = []
    for panel in panels(rows, axis):
        for network, curve in curves(rows, axis, panel).items():
            first, last = curve[0], curve[-1]
            measured, predicted = slopes(curve)
            row = [ARCHITECTURES[panel[0]], RUNTIMES[panel[1]], str(panel[2]), _name(network, axis)]
            row.append(f"{first['value']:g} to {last['value']:g}")
            row += [f"{short(first['ms'])} to {short(last['ms'])}", f"{measured:.2f}", f"{predicted:.2f}"]
            row += [f"{last['ms'] / first['ms']:.2f}", f"{last['macs'] / first['macs']:.2f}"]
            ratios = [each.get("ratio") for each in (first, last)]
            row.append(" to ".join(f"{ratio:.2f}" for ratio in ratios if ratio is not None) if all(ratios) else "")
            found.append(row)
    return found


def figure(rows: Sequence[Row], axis: str, path: Path) -> Path | None:
    """A panel a runtime and number of threads: measured times, and dashed what is in proportion to multiply-adds."""
    from matplotlib.ticker import FixedLocator

    from dynaconv.explain.figures import new_figure, save

    shown = panels(rows, axis)
    if not shown:
        return None
    columns = min(2, len(shown))
    lines = math.ceil(len(shown) / columns)
    made = new_figure(6.4 * columns, 5.0 * lines)
    grid = made.subplots(lines, columns, squeeze=False, sharex=True).flatten()
    for axes, panel in zip(grid, shown, strict=False):
        _draw(axes, axis, curves(rows, axis, panel))
        title = f"{ARCHITECTURES[panel[0]]}, {RUNTIMES[panel[1]]}, {counted(panel[2], 'thread')}"
        axes.set_title(title, loc="left", fontsize=11)
    # The panels share one axis, so its last ticks are those of all.
    shown_values = {row["value"] for row in rows if row["axis"] == axis}
    grid[0].xaxis.set_major_locator(FixedLocator(sorted(shown_values)))
    for axes in grid[len(shown) :]:
        axes.set_visible(False)
    return save(made, path)


def _draw(axes: Any, axis: str, found: Mapping[str, list[Row]]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    from dynaconv.explain.figures import COLOURS, light_grid

    looks = dict(zip(labels(), zip((*COLOURS, "0.5"), "osD^vPX*", strict=False), strict=False))
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    for network, curve in found.items():
        colour, marker = looks.get(network, ("0.25", "o"))
        values = [row["value"] for row in curve]
        measured, predicted = slopes(curve)
        rate = statistics.geometric_mean(row["ms"] / row["macs"] for row in curve)
        label = f"{_name(network, axis)}: slope {measured:.2f}, predicted {predicted:.2f}"
        axes.plot(values, [row["ms"] for row in curve], marker + "-", color=colour, markersize=5, label=label)
        axes.plot(values, [rate * row["macs"] for row in curve], linestyle=(0, (4, 3)), color=colour, linewidth=1.0)
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(plain)
    if axis in ("batch", "side"):
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        # Room for the legend above the curves.
        high *= (high / low) ** 0.45
        axes.set_ylim(low, high)
        steps = [step * 10.0**power for power in range(-2, 6) for step in (1, 2, 5)]
        axes.yaxis.set_major_locator(FixedLocator([step for step in steps if low <= step <= high]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(plain)
    else:
        # What grows by some per cent looks like that.
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    axes.set_xlabel(f"{AXIS_LABELS[axis]} (dashed: multiply-adds as executed)")
    axes.set_ylabel("milliseconds")
    light_grid(axes)
    axes.legend(loc="upper left" if axis in ("batch", "side") else "lower left", fontsize=8, frameon=False)
