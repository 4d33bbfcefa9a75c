"""Time, memory and size of every kind of network in every runtime, beside the static twin.

    python benchmarks/latency.py                       # up to 40 minutes; called again, it goes on where it stopped
    python benchmarks/latency.py --quick               # some minutes: MobileNetV2 x0.5, a batch of one
    python benchmarks/latency.py --redo --runtimes native ort --networks static dcd               # these again
    python benchmarks/latency.py --minutes 0           # measures nothing; tables and figures of what is there

`make bench` is the first, `make bench BENCH="--quick"` the second. Results go to OUT/latency.json after every group,
tables to OUT/results.md, figures beside it. benchmarks/growth.py has how the cost grows. Everything of a group (an
architecture, a batch, a number of threads) is in a process of its own, all are alive at once and take turns; what
counts are medians over rounds, and of the ratios of one round. torch.compile, which compiles for minutes, comes as
groups of its own.
Networks have their initial weights, which change no time: every operation is dense, and takes as long for any numbers.
Exported and compiled files stay in the folder; delete it after a change of the export.
"""

import argparse
import importlib
import os
import signal
import statistics
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import _latency_cells as cells
from _families import networks
from _latency_cells import RUNTIMES, Cell, Group
from _latency_store import Row, Store, here
from _runtimes import exported, exported_path, timm_name
from _turns import LEAST_ROUNDS, started, take_turns

from dynaconv.measure.timing import median_ratio, quartiles

QUICK: dict[str, Any] = {
    "architectures": ["mobilenetv2_050"],
    "networks": ["static", "dcd", "dyconv"],
    "runtimes": ["eager", "native", "ort", "openvino"],
    "batch": [1],
    "threads": [min(os.cpu_count() or 1, 2)],
    "rounds": 5,
    "seconds": 20.0,
    "minutes": 40.0,
}
FULL: dict[str, Any] = {
    "architectures": list(cells.DEFAULT_ARCHITECTURES),
    "runtimes": list(cells.RUNTIMES),
    "batch": [1, 4, 16],
    "rounds": 10,
    "seconds": 60.0,
    "minutes": 40.0,
}


class Bench:
    """One run of the benchmark.

    Attributes:
        script: Its file, for messages.
        page: The module whose `write` makes tables and figures.
        results: The file of the results.
    """

    script, page, results = "latency.py", "_latency_page", "latency.json"

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.store = Store(args.out / self.results)
        self.store.check_processor()
        self.end: float = time.monotonic() + 60 * args.minutes
        self.failures: dict[tuple[Any, ...], str] = {}
        for folder in (args.out, args.folder):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.end

    def run(self) -> bool:
        """Measure what is missing; False when the time was over first."""
        return all(not self.over and self.group(group) for group in cells.groups(self.args))

    def group(self, group: Group) -> bool:
        """Prepare and measure what is missing of a group; False when the time was over first."""
        wanted = [cell for cell in group.cells if self.args.redo or self.store.cell(cell) is None]
        if not wanted:
            return True
        # What the ratios are to has to be there, also where its own numbers are known.
        partners = {("static", cell.runtime) for cell in wanted}
        if cells.BASELINE[1] in self.args.runtimes:
            partners.add(cells.BASELINE)
        one = wanted[0]
        have = {cell.which for cell in wanted}
        others = [replace(one, network=network, runtime=runtime) for network, runtime in sorted(partners - have)]
        print(f"\n{group.title}", flush=True)
        if not self.prepare([*others, *wanted]):
            return False
        if self.args.prepare:
            return True
        rows = self.measured_cells(wanted, others)
        for row in rows:
            print(f"  {line(row)}", flush=True)
        return True

    def prepare(self, wanted: list[Cell]) -> bool:
        """Write and compile the files that are missing, some at a time; False when the time was over first."""
        # OpenVINO's files may be made of those for ONNX Runtime.
        for runtimes in (("ort", "compile"), ("openvino",)):
            loads: dict[tuple[Any, ...], Any] = {}
            for cell in wanted:
                if cell.runtime in runtimes and not self.file(cell).exists() and file_key(cell) not in self.failures:
                    name = timm_name(cell.network, cell.architecture)
                    loads[file_key(cell)] = (
                        partial(cells.compile_once, cell, self.args.folder)
                        if cell.runtime == "compile"
                        else partial(exported, self.args.folder, cell.runtime, name, cell.side)
                    )
            if not self.write({key: partial(cells.write_once, load) for key, load in loads.items()}):
                return False
        return True

    def write(self, servers: dict[tuple[Any, ...], Any]) -> bool:
        """Run what writes files, by names of them, some at a time; False when the time was over first."""
        keys = list(servers)
        for start in range(0, len(keys), self.args.jobs):
            if self.over:
                return False
            some = {key: servers[key] for key in keys[start : start + self.args.jobs]}
            print(f"  preparing {', '.join(' for '.join(key[:2]) for key in some)}", flush=True)
            with started(some, self.args.jobs) as (_, _, failures):
                self.failures |= failures
        return True

    def file(self, cell: Cell) -> Path:
        """What has to be there before a cell is measured: a network, or the word that it is compiled."""
        if cell.runtime == "compile":
            return cells.compiled_mark(cell, self.args.folder)
        name = timm_name(cell.network, cell.architecture)
        return exported_path(self.args.folder, cell.runtime, name, cell.side)

    def measured_cells(self, wanted: list[Cell], others: list[Cell]) -> list[Row]:
        """Rows of the wanted cells; the others take their turns beside them."""
        everything = {cell.which: cell for cell in [*others, *wanted]}
        failed = {
            which: self.failures[file_key(cell)]
            for which, cell in everything.items()
            if file_key(cell) in self.failures
        }
        loads = {
            which: partial(cells.load_cell, cell, self.args.folder)
            for which, cell in everything.items()
            if which not in failed
        }
        compiling = any(cell.runtime == "compile" for cell in wanted)
        session = here()
        with self.processes(loads, compiling=compiling) as (pipes, words, failures):
            turns, broken = take_turns(pipes, [(which, "run") for which in pipes], self.args.rounds, self.args.seconds)
        failed |= failures | {which: reason for (which, _), reason in broken.items()}
        times = {which: [turn.ms for turn in each] for (which, _), each in turns.items() if which not in failed}
        rows = []
        for cell in wanted:
            row = asdict(cell)
            if cell.which in failed:
                rows.append(row | {"failure": failed[cell.which]})
                continue
            word, mine = words[cell.which], turns[cell.which, "run"]
            memory = {key: round(word[key] / cells.MIB, 1) for key in ("imported", "loaded")}
            memory["peak"] = round(max(turn.peak for turn in mine) / cells.MIB, 1)
            ratio = {key: ratio_of(times, cell.which, other) for key, other in _others(cell).items()}
            idle = statistics.median(turn.idle for turn in mine)
            rows.append(row | summary(times[cell.which]) | ratio | {"bytes": word["size"], "memory_mib": memory})
            rows[-1] |= {"idle": round(idle, 4), "others": round(statistics.median(turn.others for turn in mine), 4)}
        self.store.add(session, cells=rows)
        return rows

    def processes(self, loads: dict[Any, Any], *, compiling: bool = False) -> Any:
        """As `_turns.started`, for networks."""
        servers = {
            label: partial(cells.serve_turns, load, self.args.burst, compiling=compiling)
            for label, load in loads.items()
        }
        return started(servers, self.args.jobs)


def file_key(cell: Cell) -> tuple[Any, ...]:
    """Cells with equal keys need the same file."""
    situation = (cell.side, cell.batch, cell.threads) if cell.runtime == "compile" else (cell.side,)
    return timm_name(cell.network, cell.architecture), RUNTIMES[cell.runtime], *situation


def _others(cell: Cell) -> dict[str, tuple[str, str]]:
    return {"ratio": ("static", cell.runtime), "ratio_to_static_ort": cells.BASELINE}


def ratio_of(times: dict[Any, list[float]], one: Any, other: Any) -> float | None:
    """Median over rounds of one candidate's time by another's in the same round; None where that one failed."""
    if other not in times:
        return None
    return round(median_ratio(times[one], times[other]), 4)


def summary(times: list[float]) -> Row:
    """Median and quartiles in milliseconds."""
    low, median, high = (round(value, 4) for value in quartiles(times))
    return {"ms": median, "quartiles": [low, high], "rounds": len(times)}


def line(row: Row) -> str:
    """One cell for the terminal."""
    label = Cell(**{key: row[key] for key in Cell.__dataclass_fields__}).label
    if "failure" in row:
        return f"{label}: {row['failure']}"
    ratio = "" if row["ratio"] is None else f", {row['ratio']:.2f} of static"
    return f"{label}: {row['ms']:.2f} ms{ratio}"


def positive(text: str) -> int:
    """An int from 1 up."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"an integer from 1 up is needed, not {text!r}")
    return int(text)


def parsed(argv: list[str] | None = None) -> argparse.Namespace:
    """Arguments, those that were not given as `--quick` or its absence says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choice: Any = {"nargs": "+", "metavar": "NAME"}
    parser.add_argument("--architectures", choices=cells.ARCHITECTURES, **choice)
    parser.add_argument("--networks", choices=networks(), **choice)
    parser.add_argument("--runtimes", choices=cells.RUNTIMES, **choice)
    parser.add_argument("--batch", type=positive, nargs="+")
    parser.add_argument("--side", type=positive, default=224, help="pixels")
    add_conditions(parser, Path("runs/bench"))
    return completed(parser, parser.parse_args(argv), QUICK, FULL | {"networks": list(networks())})


def add_conditions(parser: argparse.ArgumentParser, folder: Path) -> None:
    """Add the options that any benchmark of candidates in turns has."""
    parser.add_argument("--threads", type=positive, nargs="+")
    parser.add_argument("--rounds", type=positive, help="turns of each candidate, at most")
    parser.add_argument("--seconds", type=float, help=f"no further round of a group after that, from {LEAST_ROUNDS} on")
    parser.add_argument(
        "--burst", type=positive, default=5, help="calls in a turn, of which the median counts, at most"
    )
    parser.add_argument("--minutes", type=float, help="no further group after that")
    parser.add_argument(
        "--jobs", type=positive, default=min(os.cpu_count() or 1, 4), help="processes that load at once"
    )
    parser.add_argument("--redo", action="store_true", help="measure what is known or failed again")
    parser.add_argument("--prepare", action="store_true", help="export and compile only")
    parser.add_argument("--quick", action="store_true", help="some minutes: fewer candidates, few rounds")
    parser.add_argument("--out", type=Path, default=folder, help="folder of results, tables and figures")
    parser.add_argument("--folder", type=Path, default=folder / "files", help="of exported and compiled files")
    parser.add_argument("--page", type=Path, help="a Markdown page whose marked part is made anew")


def completed(
    parser: argparse.ArgumentParser, args: argparse.Namespace, quick: dict[str, Any], full: dict[str, Any]
) -> argparse.Namespace:
    """Fill in what was not given: one thread and two, where the machine has them, if the defaults do not say."""
    processors = os.cpu_count() or 1
    threads = [count for count in (1, 2) if count <= processors]
    for key, value in {"threads": threads, **(quick if args.quick else full)}.items():
        if getattr(args, key) is None:
            setattr(args, key, value)
    if max(args.threads) > processors:
        parser.error(f"--threads {max(args.threads)} is more than the {processors} processors of this machine")
    return args


def run_bench(kind: type[Bench], args: argparse.Namespace) -> None:
    """Measure what is missing, then write tables and figures of everything there is."""
    # So that the processes of the candidates end with this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(f"{kind.script}: stopped; the same command goes on from here."))
    try:
        bench = kind(args)
        done = bench.run()
        if args.prepare:
            return
        for path in importlib.import_module(kind.page).write(bench.store.data, args.out, args.page):
            print(path)
    except ValueError as error:
        sys.exit(f"{kind.script}: {error}")
    if not done:
        print("The time was over before everything was measured; the same command goes on from here.")


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    run_bench(Bench, parsed(argv))


if __name__ == "__main__":
    main()
