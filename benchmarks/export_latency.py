"""Latency of exported DCD networks in ONNX Runtime and OpenVINO, beside the static network in the same runtime.

    python benchmarks/export_latency.py                                  # the table of docs/export.md
    python benchmarks/export_latency.py --batch 1 --threads 2 --runtimes ort --rounds 20
    python benchmarks/export_latency.py --profile                        # where a call's time goes, by operator

"as it stands" is `rewrite=False`: the network as it computes in PyTorch; "native kernels" is `native=True`:
one operator, which the extension of the runtime computes. Each candidate has a process of its own, and they take turns
as in benchmarks/_turns.py. Initial weights change no timing. Exporting takes some minutes at first; `--folder` keeps
the files for the next time.
"""

import argparse
import collections
import json
import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from _runtimes import kept, session
from _turns import measure

RUNTIMES = {"ort": "ONNX Runtime", "openvino": "OpenVINO"}
CANDIDATES = {
    "static": ("static", "rewritten"),
    "DCD as it stands": ("dcd", "as_it_stands"),
    "DCD": ("dcd", "rewritten"),
    "DCD, native kernels": ("dcd", "native"),
}


def exported(folder: Path, runtime: str, family: str, form: str, args: argparse.Namespace) -> Path:
    """The file of a candidate, written where it is not there yet."""
    suffix = ".onnx" if runtime == "ort" else ".xml"
    path = folder / f"{family}_{args.network}_{args.side}_{form}{suffix}"
    if not path.exists():
        import timm
        import torch

        import dynaconv.models  # noqa: F401  # registers the networks with timm
        from dynaconv import deploy, export_onnx, export_openvino

        torch.manual_seed(0)
        network = deploy(timm.create_model(f"{family}_{args.network}").eval())
        example = torch.randn(1, 3, args.side, args.side)
        write = export_onnx if runtime == "ort" else export_openvino
        options = {"rewrite": form != "as_it_stands", "native": form == "native"}
        write(network, path, example, free_size=False, **options)
    return path


def opened(path: Path, runtime: str, size: tuple[int, ...], threads: int) -> Callable[[], Any]:
    """A function that runs a file once."""
    return session(path, runtime, size, threads, native=path.stem.endswith("_native"))[1]


def by_operator(path: Path, runtime: str, size: tuple[int, ...], threads: int) -> dict[str, tuple[int, float]]:
    """How many operators of each kind a call starts, and their microseconds: medians over calls, summed."""
    source, run = session(path, runtime, size, threads, profile=True, native=path.stem.endswith("_native"))
    times: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    for _ in range(20):
        run()
        if runtime == "openvino":
            for each in source.profiling_info:
                if each.real_time.total_seconds():
                    times[each.node_type, each.node_name].append(1e6 * each.real_time.total_seconds())
    if runtime == "ort":
        trace = Path(source.end_profiling())
        for event in json.loads(trace.read_text()):
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                times[event["args"]["op_name"], event["name"]].append(event["dur"])
        trace.unlink()
    found: dict[str, tuple[int, float]] = {}
    for (kind, _), each in times.items():
        count, total = found.get(kind, (0, 0.0))
        found[kind] = count + 1, total + statistics.median(each)
    return found


def print_latencies(folder: Path, args: argparse.Namespace) -> None:
    """A line for each runtime, batch and number of threads."""
    ratios = [f"{name} / static" for name in CANDIDATES if name != "static"]
    print(f"| runtime | batch | threads | {' | '.join([*CANDIDATES, *ratios])} |")
    print(f"|{' --- |' * (3 + len(CANDIDATES) + len(ratios))}")
    for runtime in args.runtimes:
        files = {name: exported(folder, runtime, *which, args) for name, which in CANDIDATES.items()}
        for batch in args.batch:
            for threads in args.threads:
                size = (batch, 3, args.side, args.side)
                loads = {name: partial(opened, path, runtime, size, threads) for name, path in files.items()}
                found = measure(loads, args)
                cells = [f"{statistics.median(times):.2f}" for times in found.values()]
                for name in CANDIDATES:
                    if name != "static":
                        pairs = zip(found[name], found["static"], strict=True)
                        cells.append(f"{statistics.median(a / b for a, b in pairs):.2f}")
                print(f"| {RUNTIMES[runtime]} | {batch} | {threads} | {' | '.join(cells)} |", flush=True)


def print_profiles(folder: Path, args: argparse.Namespace) -> None:
    """For each runtime a table of kinds of operators."""
    size = (args.batch[0], 3, args.side, args.side)
    for runtime in args.runtimes:
        columns = {
            name: by_operator(exported(folder, runtime, *which, args), runtime, size, args.threads[0])
            for name, which in CANDIDATES.items()
        }
        kinds = {kind for each in columns.values() for kind in each}
        print(f"\n| {RUNTIMES[runtime]} | {' | '.join(columns)} |\n|{' --- |' * (1 + len(columns))}")
        for kind in sorted(kinds, key=lambda kind: -columns["DCD"].get(kind, (0, 0.0))[1]):
            cells = [f"{each[kind][0]}: {each[kind][1]:.0f}" if kind in each else "" for each in columns.values()]
            print(f"| {kind} | {' | '.join(cells)} |")


def main() -> None:
    """Print the table and where it was taken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="mobilenetv2_100", help="timm name without the family")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--burst", type=int, default=5, help="calls in a row, of which the median counts")
    parser.add_argument("--folder", type=Path, help="where the files are kept")
    parser.add_argument("--profile", action="store_true", help="operators at the first batch and number of threads")
    args = parser.parse_args()
    with kept(args.folder) as folder:
        (print_profiles if args.profile else print_latencies)(folder, args)
    import onnxruntime
    import openvino

    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"\n{args.network}, {args.side} pixels, milliseconds (profiles: operators, microseconds), "
        f"{args.rounds} rounds, ONNX Runtime {onnxruntime.__version__}, OpenVINO {openvino.__version__}, "
        f"{os.cpu_count()} CPUs, load {load}"
    )


if __name__ == "__main__":
    main()
