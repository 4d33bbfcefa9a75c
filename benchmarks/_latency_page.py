"""Tables and figures of the inference benchmark."""

import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from _families import networks as known_networks
from _latency_cells import ARCHITECTURES, DEFAULT_ARCHITECTURES, MIB, RUNTIMES
from _latency_store import Row

from dynaconv.errors import counted
from dynaconv.files import write_text
from dynaconv.markdown import markdown_table, replace_between, write_page

MARKS = ("<!-- results: python benchmarks/latency.py --page -->", "<!-- end of results -->")


class Results:
    """Rows, found by what they are of."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.sessions: dict[str, Row] = data["sessions"]
        self.cells: list[Row] = data["cells"]
        self.by_cell = {self.key(row): row for row in self.cells}
        order = {name: place for place, name in enumerate((*DEFAULT_ARCHITECTURES, *ARCHITECTURES))}
        self.architectures = sorted({row["architecture"] for row in self.cells}, key=lambda name: order[name])

    @staticmethod
    def key(row: Row) -> tuple[Any, ...]:
        return row["architecture"], row["batch"], row["threads"], row["network"], row["runtime"]

    def situations(self, architecture: str) -> list[tuple[int, int]]:
        """Batches and threads that there are numbers of."""
        return sorted({(row["batch"], row["threads"]) for row in self.cells if row["architecture"] == architecture})

    def some(self, field: str, known: Iterable[str]) -> list[str]:
        """Networks or runtimes that there are numbers of, in the order in which they are always shown."""
        return [name for name in known if any(row[field] == name for row in self.cells)]


def dynamic_networks() -> list[str]:
    """All networks but the static ones."""
    return [name for name in known_networks() if name != "static"]


def write(data: dict[str, Any], out: Path, page: Path | None) -> list[Path]:
    """Write figures and tables of what there is; the paths.

    Raises:
        ValueError: The page does not have each of `MARKS` once.
    """
    results = Results(data)
    figure = ratio_figure(results, out / "ratios.png")
    target = write_blocks(out / "results.md", page, MARKS, partial(blocks, results, figure))
    return [target, *([] if figure is None else [figure])]


def write_blocks(own: Path, page: Path | None, marks: tuple[str, str], make: Callable[[Path], list[str]]) -> Path:
    """Write blocks of Markdown, made for the folder of their page: between two lines of `page`, else as the page `own`.

    Raises:
        ValueError: The page does not have each of the two lines once.
    """
    if page is None:
        write_page(own, make(own.parent))
        return own
    write_text(page, replace_between(page.read_text(encoding="utf-8"), marks, "\n\n".join(make(page.parent))))
    return page


def blocks(results: Results, figure: Path | None, folder: Path) -> list[str]:
    """Blocks of Markdown; the figure is linked as seen from the folder."""
    found = ["## Overview", *overview(results)]
    if figure is not None:
        found.append(f"![Time relative to the static twin]({os.path.relpath(figure, folder)})")
    found += ["## Milliseconds, and time relative to the static twin in the same runtime"]
    for architecture in results.architectures:
        found += [f"### {ARCHITECTURES[architecture]}", times(results, architecture)]
    found += ["## Against the static network in ONNX Runtime", *fastest(results)]
    found += ["## Memory and size", *memory(results)]
    failed = failures(results)
    if failed:
        found += ["## What could not be measured", "\n".join(failed)]
    return [*found, "## Conditions", "\n".join(conditions(results.sessions, results.cells))]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: int) -> str:
    """A Markdown table whose first columns are texts and the others numbers."""
    return "\n".join(markdown_table(head, rows, "l" * texts + "r"))


def overview(results: Results) -> list[str]:
    """Ratios over everything, one row a network."""
    runtimes = results.some("runtime", RUNTIMES)
    rows = []
    for network in results.some("network", dynamic_networks()):
        cells = []
        for runtime in runtimes:
            ratios = [
                row["ratio"]
                for row in results.cells
                if (row["network"], row["runtime"]) == (network, runtime) and row.get("ratio")
            ]
            cell = f"{statistics.median(ratios):.2f}" if ratios else ""
            cells.append(cell + (f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""))
        rows.append([known_networks()[network], *cells])
    text = (
        "Time relative to the static twin in the same runtime: the median over architectures, batches and threads, and "
        "the least and the greatest. Above 1.00 the dynamic network is slower."
    )
    return [text, table(["network", *(RUNTIMES[name] for name in runtimes)], rows, 1)]


def times(results: Results, architecture: str) -> str:
    """One row a situation and network."""
    mine = [row for row in results.cells if row["architecture"] == architecture]
    runtimes = [name for name in RUNTIMES if any(row["runtime"] == name for row in mine)]
    rows = []
    for batch, threads in results.situations(architecture):
        for network in known_networks():
            found = [results.by_cell.get((architecture, batch, threads, network, runtime)) for runtime in runtimes]
            if any(found):
                rows.append([str(batch), str(threads), known_networks()[network], *map(_time, found)])
    return table(["batch", "threads", "network", *(RUNTIMES[name] for name in runtimes)], rows, 3)


def _time(row: Row | None) -> str:
    if row is None:
        return ""
    if "failure" in row:
        return "failed"
    ratio = "" if row["network"] == "static" or row["ratio"] is None else f" ({row['ratio']:.2f})"
    return f"{short(row['ms'])}{ratio}"


def short(value: float) -> str:
    """Three digits or so."""
    return f"{value:.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"


def fastest(results: Results) -> list[str]:
    """Each network where it runs fastest, beside the static one as it is mostly shipped."""
    networks = results.some("network", known_networks())
    rows = []
    for architecture in results.architectures:
        for batch, threads in results.situations(architecture):
            cells = []
            for network in networks:
                found = [results.by_cell.get((architecture, batch, threads, network, runtime)) for runtime in RUNTIMES]
                known = [row for row in found if row and row.get("ratio_to_static_ort")]
                best = min(known, key=lambda row: row["ratio_to_static_ort"], default=None)
                cells.append(f"{best['ratio_to_static_ort']:.2f} ({RUNTIMES[best['runtime']]})" if best else "")
            if any(cells):
                rows.append([ARCHITECTURES[architecture], str(batch), str(threads), *cells])
    text = "Each network in the runtime where it is fastest: its time relative to the static network in ONNX Runtime."
    head = ["architecture", "batch", "threads", *(known_networks()[name] for name in networks)]
    return [text, table(head, rows, 3)]


def memory(results: Results) -> list[str]:
    """Peaks and sizes, at the number of threads that there is most of."""
    text = (
        "Size, MiB, of the ONNX file (with the weights in it), and peak memory, MiB: the most resident memory of the "
        "process while it ran the network, less what it held with the runtime imported and no network loaded. That is "
        "weights with the copies that a runtime makes of them, images and workspace."
    )
    runtimes = results.some("runtime", RUNTIMES)
    rows = []
    for architecture in results.architectures:
        situations = results.situations(architecture)
        most = max(threads for _, threads in situations)
        for batch in (batch for batch, threads in situations if threads == most):
            for network in results.some("network", known_networks()):
                found = [results.by_cell.get((architecture, batch, most, network, runtime)) for runtime in runtimes]
                ort = results.by_cell.get((architecture, batch, most, network, "ort"), {})
                size = f"{ort['bytes'] / MIB:.1f}" if "bytes" in ort else ""
                if any(found):
                    start = [ARCHITECTURES[architecture], str(batch), known_networks()[network], size]
                    rows.append([*start, *map(_peak, found)])
    head = ["architecture", "batch", "network", "size", *(RUNTIMES[name] for name in runtimes)]
    return [text, table(head, rows, 3)]


def _peak(row: Row | None) -> str:
    if row is None or "failure" in row:
        return "" if row is None else "failed"
    held = row["memory_mib"]
    return f"{held['peak'] - held['imported']:.0f}"


def failures(results: Results) -> list[str]:
    """One line a reason."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for row in results.cells:
        if "failure" in row:
            where = f"batch {row['batch']}, {row['threads']} thread(s)"
            title = f"{ARCHITECTURES[row['architecture']]}, {known_networks()[row['network']]}"
            reasons.setdefault((title, RUNTIMES[row["runtime"]], row["failure"]), []).append(where)
    return [f"- {title}, {runtime} ({'; '.join(where)}): {why}" for (title, runtime, why), where in reasons.items()]


def conditions(sessions: dict[str, Row], measured: Sequence[Row]) -> list[str]:
    """One line a set of versions, and how often was measured."""
    found: dict[tuple[str, str], list[str]] = {}
    titles = {"python": "Python", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
    for each in sessions.values():
        versions = ", ".join(f"{titles.get(name, name)} {version}" for name, version in each["versions"].items())
        found.setdefault((each["processor"], versions), []).append(each["date"])
    rounds = [row["rounds"] for row in measured if "rounds" in row]
    idle = [row["idle"] for row in measured if "idle" in row]
    others = [row["others"] for row in measured if "others" in row]
    said = [
        f"- {where}; {versions}; {min(dates)}" + (f" to {max(dates)}" if min(dates) != max(dates) else "")
        for (where, versions), dates in found.items()
    ]
    if rounds:
        count = str(min(rounds)) if min(rounds) == max(rounds) else f"{min(rounds)} to {max(rounds)}"
        said.append(f"- Medians of {count} rounds; float32; wall-clock time.")
    if idle:
        said.append(
            f"- While others had their turns a process took {statistics.median(idle):.1%} of a processor on the "
            f"median, and {max(idle):.1%} at most."
        )
    if others:
        said.append(
            f"- In its turns {statistics.median(others):.1%} of the processors went to other programs for the median "
            f"cell, and {max(others):.1%} for the one with most."
        )
    return said


def ratio_figure(results: Results, path: Path) -> Path | None:
    """Dots: a panel an architecture and batch, a line a network, a colour a runtime."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    from dynaconv.explain.figures import COLOURS, light_grid, new_figure, save

    networks = results.some("network", dynamic_networks())
    panels = {}
    for architecture in results.architectures:
        situations = results.situations(architecture)
        most = max(threads for _, threads in situations)
        panels[architecture] = (most, sorted(batch for batch, threads in situations if threads == most))
    batches = sorted({batch for _, each in panels.values() for batch in each} & {1, 16})
    batches = batches or sorted({batch for _, each in panels.values() for batch in each})[:1]
    if not networks or not batches:
        return None
    figure = new_figure(max(3.0 * len(panels) + 1.6, 8.0), (0.42 * len(networks) + 0.9) * len(batches) + 0.7)
    grid = figure.subplots(len(batches), len(panels), sharex=True, sharey=True, squeeze=False)
    looks = dict(zip(RUNTIMES, zip(COLOURS, "osD^v", strict=False), strict=False))
    shown = results.some("runtime", RUNTIMES)
    least = greatest = 1.0
    for line, batch in zip(grid, batches, strict=True):
        for axes, (architecture, (threads, _)) in zip(line, panels.items(), strict=True):
            for place, network in enumerate(networks):
                for runtime in shown:
                    row = results.by_cell.get((architecture, batch, threads, network, runtime), {})
                    if row.get("ratio"):
                        colour, marker = looks[runtime]
                        offset = 0.13 * (shown.index(runtime) - (len(shown) - 1) / 2)
                        axes.plot(row["ratio"], place + offset, marker, color=colour, markersize=6)
                        least, greatest = min(least, row["ratio"]), max(greatest, row["ratio"])
            axes.axvline(1, color="0.3", linewidth=1.2)
            said = f"{ARCHITECTURES[architecture]}, batch {batch}, {counted(threads, 'thread')}"
            axes.set_title(said, loc="left", fontsize=10)
            light_grid(axes)
            axes.grid(False, axis="y")
            for place in range(1, len(networks)):
                axes.axhline(place - 0.5, color="0.92", linewidth=0.8)
    first = grid[0][0]
    first.set_yticks(
        range(len(networks)),
        [known_networks()[name].replace(", published structure", ", published") for name in networks],
    )
    first.set_ylim(len(networks) - 0.5, -0.5)
    first.set_xscale("log")
    first.set_xlim(0.88 * least, max(2.2, 1.12 * greatest))
    steps = (0.8, 1, 1.2, 1.5, 2, 2.5) if greatest < 2.6 else (0.5, 0.7, 1, 1.5, 2, 3, 5, 8, 12, 20)
    first.xaxis.set_major_locator(FixedLocator(steps))
    first.xaxis.set_minor_locator(NullLocator())
    first.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for axes in grid[-1]:
        axes.set_xlabel("time / time of the static twin", fontsize=9)
    for runtime in shown:
        colour, marker = looks[runtime]
        first.plot([], [], marker, color=colour, label=RUNTIMES[runtime])
    figure.legend(loc="outside lower center", ncols=len(shown), frameon=False)
    return save(figure, path)
