"""Latency of exported dynamic networks in ONNX Runtime and OpenVINO, beside the static network in the same runtime.

    python benchmarks/export_latency.py                                  # DCD, as graph and by native kernels
    python benchmarks/export_latency.py --candidates static dcd dyconv condconv odconv --runtimes ort openvino-free \
        openvino openvino-free-default openvino-default --batch 1 --threads 1  # tables of docs/results/inference.md
    python benchmarks/export_latency.py --batch 1 --threads 2 --runtimes ort --rounds 20
    python benchmarks/export_latency.py --candidates static dcd static-half dcd-half static-int8 dcd-int8 --threads 1 \
        --runtimes ort openvino-free openvino openvino-default --batch 1            # the tables of docs/int8.md
    python benchmarks/export_latency.py --profile                        # where a call's time goes, by operator

"openvino-free" leaves the batch free where "openvino" reshapes the network to one; "default" is the precision that
OpenVINO chooses, where the others compute in float32. "as it stands" is `rewrite=False`: the network as it computes in
PyTorch; "native" is `native=True`: one operator, which the extension of the runtime computes. Each candidate has a
process of its own, and they take turns as in benchmarks/_turns.py. Initial weights change no timing. Exporting takes
some minutes at first; `--folder` keeps the files for the next time.
"""

import argparse
import collections
import itertools
import json
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from _runtimes import exported, kept, processors, session
from _turns import measure

from dynaconv.markdown import markdown_table
from dynaconv.measure.timing import median_ratio

RUNTIMES = {
    "ort": "ONNX Runtime",
    "openvino": "OpenVINO, reshaped",
    "openvino-default": "OpenVINO, reshaped, default precision",
    "openvino-free": "OpenVINO, free batch",
    "openvino-free-default": "OpenVINO, free batch, default precision",
}
CANDIDATES = {
    "static": ("static", ""),
    "dcd-as-it-stands": ("dcd", "as_it_stands"),
    "dcd": ("dcd", ""),
    "dcd-native": ("dcd", "native"),
    "static-native-int8": ("static", "native_int8"),
    "dcd-native-int8": ("dcd", "native_int8"),
    "static-half": ("static", "half"),
    "dcd-half": ("dcd", "half"),
    "static-int8": ("static", "int8"),
    "dcd-int8": ("dcd", "int8"),
    "dyconv-int8": ("dyconv", "int8"),
    "odconv-int8": ("odconv", "int8"),
    "se": ("se", ""),
    "se-int8": ("se", "int8"),
    "dyconv": ("dyconv", ""),
    "condconv": ("condconv", ""),
    "odconv": ("odconv", ""),
}


def file(folder: Path, runtime: str, family: str, form: str, args: argparse.Namespace) -> Path:
    """The file of a candidate."""
    return exported(folder, runtime.partition("-")[0], f"{family}_{args.network}", args.side, form)


def how(path: Path, runtime: str) -> dict[str, Any]:
    """How a runtime opens a file: arguments of `session`."""
    name, *rest = runtime.split("-")
    precision = "default" if "default" in rest else "f32"
    return {"runtime": name, "native": "_native" in path.stem, "free": "free" in rest, "precision": precision}


def opened(path: Path, runtime: str, size: tuple[int, ...], threads: int) -> Callable[[], Any]:
    """A function that runs a file once."""
    return session(path, size=size, threads=threads, **how(path, runtime))[1]


def by_operator(path: Path, runtime: str, size: tuple[int, ...], threads: int) -> dict[str, tuple[int, float]]:
    """How many operators of each kind a call starts, and their microseconds: medians over calls, summed.

    OpenVINO gives means, from which those of the first calls are taken out. A loop's own time, which includes that of
    the operators in it, is left out.
    """
    source, run = session(path, size=size, threads=threads, profile=True, **how(path, runtime))
    times: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    calls_until, means = [5, 25], []
    for calls in (calls_until[0], calls_until[1] - calls_until[0]):
        for _ in range(calls):
            run()
        if runtime != "ort":
            info = source.profiling_info
            means.append({(each.node_type, each.node_name): each.real_time.total_seconds() for each in info})
    if runtime == "ort":
        trace = Path(source.end_profiling())
        for event in json.loads(trace.read_text()):
            if (
                event.get("cat") == "Node"
                and event["name"].endswith("_kernel_time")
                and event["args"]["op_name"] != "Scan"
            ):
                times[event["args"]["op_name"], event["name"]].append(event["dur"])
        trace.unlink()
    else:
        first, last = calls_until
        for operator, seconds_each in means[1].items():
            if seconds_each:
                mean = (last * seconds_each - first * means[0].get(operator, 0.0)) / (last - first)
                times[operator].append(1e6 * mean)
    found: dict[str, tuple[int, float]] = {}
    for (kind, _), each in times.items():
        count, total = found.get(kind, (0, 0.0))
        found[kind] = count + 1, total + statistics.median(each)
    return found


def latencies(folder: Path, args: argparse.Namespace) -> Iterator[str]:
    """Lines of a table: a row for each runtime, batch and number of threads."""

    def rows() -> Iterator[list[object]]:
        for runtime in args.runtimes:
            files = {name: file(folder, runtime, *CANDIDATES[name], args) for name in args.candidates}
            for batch, threads in itertools.product(args.batch, args.threads):
                size = (batch, 3, args.side, args.side)
                loads = {name: partial(opened, path, runtime, size, threads) for name, path in files.items()}
                found = measure(loads, args.rounds, calls=args.burst)
                medians = [f"{statistics.median(times):.2f}" for times in found.values()]
                ratios = [f"{median_ratio(found[name, 0], found['static', 0]):.2f}" for name in dynamic]
                yield [RUNTIMES[runtime], batch, threads, *medians, *ratios]

    dynamic = [name for name in args.candidates if name != "static"]
    columns = ["runtime", "batch", "threads", *args.candidates, *(f"{name} / static" for name in dynamic)]
    yield from markdown_table(columns, rows())


def profiles(folder: Path, args: argparse.Namespace) -> Iterator[str]:
    """Lines of a table of kinds of operators for each runtime."""
    size = (args.batch[0], 3, args.side, args.side)
    for runtime in args.runtimes:
        columns = {
            name: by_operator(file(folder, runtime, *CANDIDATES[name], args), runtime, size, args.threads[0])
            for name in args.candidates
        }
        kinds = {kind for each in columns.values() for kind in each}
        ordered = sorted(kinds, key=lambda kind: -max(each.get(kind, (0, 0.0))[1] for each in columns.values()))
        found = [[each.get(kind) for each in columns.values()] for kind in ordered]
        cells = [["" if one is None else f"{one[0]}: {one[1]:.0f}" for one in row] for row in found]
        rows = [[kind, *row] for kind, row in zip(ordered, cells, strict=True)]
        yield from ("", *markdown_table([RUNTIMES[runtime], *columns], rows))


def main() -> None:
    """Print the table and where it was taken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="mobilenetv2_100", help="timm name without the family")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=["ort", "openvino"])
    parser.add_argument(
        "--candidates", nargs="+", choices=CANDIDATES, default=["static", "dcd-as-it-stands", "dcd", "dcd-native"]
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--burst", type=int, default=5, help="calls in a row, of which the median counts")
    parser.add_argument("--folder", type=Path, help="where the files are kept")
    parser.add_argument("--profile", action="store_true", help="operators at the first batch and number of threads")
    args = parser.parse_args()
    with kept(args.folder) as folder:
        for line in (profiles if args.profile else latencies)(folder, args):
            print(line, flush=True)
    import onnxruntime
    import openvino

    print(
        f"\n{args.network}, {args.side} pixels, milliseconds (profiles: operators, microseconds), "
        f"{args.rounds} rounds, ONNX Runtime {onnxruntime.__version__}, OpenVINO {openvino.__version__}, "
        f"{processors()}"
    )


if __name__ == "__main__":
    main()
