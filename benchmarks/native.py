"""Latency of every family by the native kernels, beside the static network in ONNX Runtime, OpenVINO and torch.

    python benchmarks/native.py                                 # the table of docs/native.md
    python benchmarks/native.py --batch 1 --threads 1 --rounds 100 --only ort native --folder runs/exported
    python benchmarks/native.py --precision float32 bf16 --only native        # weights of several precisions
    python benchmarks/native.py --precision float32 int8 --threads 1 --only "static native" "DCD native" \
        "static OpenVINO"                                                      # int8, docs/int8.md
    python benchmarks/native.py --busy 1 2 --burst 60 --only "static ORT" "DCD native"     # beside other work

Each candidate has a process of its own, since the thread pools of two runtimes in one process take each other's
processor. They take turns: a round is one burst of calls for each, of which the median counts.
Initial weights change no timing, but batch norms need statistics: without them the signal of a KernelWarehouse network
falls to subnormal numbers, on which processors are slow. The native kernels take images in channels_last and give such
ones, ONNX Runtime and OpenVINO contiguous ones, as each likes them best.
Wall-clock time; a machine that others use makes all of it longer, and the ratios, which are medians over rounds of one
candidate's time by another's in the same round, less so. With `--busy` the candidates also take turns beside processes
that compute without end, each bound to a processor.
"""

import argparse
import itertools
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _families import labels, native_networks
from _runtimes import SUFFIXES, built, exported, kept, no_fallback, processors, session, warm_up
from _turns import measure

from dynaconv.markdown import markdown_table
from dynaconv.measure.timing import median_ratio

if TYPE_CHECKING:
    from dynaconv.deployment.backends import Precision

CANDIDATES = {
    "static ORT": ("static", "ort"),
    "static OpenVINO": ("static", "openvino"),
    "static torch": ("static", "torch"),
    "DCD torch": ("dcd", "torch"),
    "DCD native": ("dcd", "native"),
    "static native": ("static", "native"),
}
"""Beside these, every family that the native kernels run, and all native ones in other precisions."""
RATIOS = (
    ("DCD native", "static ORT"),
    ("static native", "static ORT"),
    ("DCD native int8", "static OpenVINO int8"),
    ("static native int8", "static OpenVINO int8"),
)


def candidates(precisions: Sequence["Precision"] = ("float32",)) -> dict[str, tuple[str, str, "Precision"]]:
    """The network, the runtime and the precision of each candidate."""
    found: dict[str, tuple[str, str, Precision]] = {label: (*case, "float32") for label, case in CANDIDATES.items()}
    for name in native_networks():
        label = f"{labels().get(name, name)} native"
        found |= {label if each == "float32" else f"{label} {each}": (name, "native", each) for each in precisions}
    if "int8" in precisions:
        found["static OpenVINO int8"] = ("static", "openvino", "int8")
    return found


def ratios_of(known: Mapping[str, tuple[str, str, "Precision"]]) -> list[tuple[str, str]]:
    """Pairs of candidates to divide: natively, by the static network in the same precision and by float32."""
    native = {case: label for label, case in known.items() if case[1] == "native"}
    pairs = [*RATIOS]
    for (name, runtime, precision), label in native.items():
        others: list[tuple[str, str, Precision]] = [("static", runtime, precision), (name, runtime, "float32")]
        pairs += [(label, native[other]) for other in others if native.get(other, label) != label]
    return pairs


def runner(
    family: str, runtime: str, precision: "Precision", size: tuple[int, ...], threads: int, args: argparse.Namespace
) -> Callable[[], Any]:
    """A function that runs the network once."""
    name = f"{family}_{args.network}"
    if runtime in SUFFIXES:
        form = "int8" if precision == "int8" else ""
        return session(exported(args.folder, runtime, name, args.side, form), runtime, size, threads)[1]
    import torch

    from dynaconv import deploy

    torch.set_num_threads(threads)
    x = torch.randn(size)
    images = x.contiguous(memory_format=torch.channels_last) if runtime == "native" else x
    network = built(name)
    warm_up(network, x)
    with no_fallback():
        run = torch.inference_mode()(deploy(network, size, backend=runtime, precision=precision))
    return lambda: run(images)


def table(args: argparse.Namespace) -> Iterator[str]:
    """The lines of the table, as they are measured."""
    known = candidates(args.precision)
    chosen = [label for label in known if any(part.lower() in label.lower() for part in args.only)]
    cases = [(label, count) for count in (0, *args.busy) for label in chosen]
    ratios = [((one, 0), (other, 0)) for one, other in ratios_of(known) if {one, other} <= set(chosen)]
    ratios += [((label, count), (label, 0)) for label, count in cases if count]

    def rows() -> Iterator[list[object]]:
        for batch, threads in itertools.product(args.batch, args.threads):
            size = (batch, 3, args.side, args.side)
            loads = {label: partial(runner, *known[label], size, threads, args) for label in chosen}
            found = measure(loads, args.rounds, processes=args.processes, busy=args.busy, calls=args.burst)
            medians = [f"{statistics.median(found[case]):.2f}" for case in cases]
            yield [batch, threads, *medians, *(f"{median_ratio(found[a], found[b]):.3f}" for a, b in ratios)]

    titles = {(label, count): f"{label} beside {count} busy" if count else label for label, count in cases}
    heads = [*titles.values(), *(f"{titles[one]} / {titles[other]}" for one, other in ratios)]
    yield from markdown_table(["batch", "threads", *heads], rows(), "r")


def main() -> None:
    """Print the table and where it was taken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="mobilenetv2_100", help="timm name without the family")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=12, help="of each set of processes")
    parser.add_argument("--processes", type=int, default=3, help="sets of processes, one after another")
    parser.add_argument("--burst", type=int, default=5, help="calls in a row, of which the median counts")
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=["float32", "bf16", "int8"],
        default=["float32"],
        help="of the weights of native networks",
    )
    parser.add_argument("--busy", type=int, nargs="+", default=[], help="processors that other processes keep busy")
    parser.add_argument("--folder", type=Path, help="where exported files are kept for the next time")
    parser.add_argument("--only", nargs="+", default=[""], help="candidates whose name has one of these in it")
    args = parser.parse_args()
    if not all(1 <= count <= (os.cpu_count() or 1) for count in args.busy):
        parser.error(f"--busy is a number of processors, 1 to {os.cpu_count()}.")
    with kept(args.folder) as args.folder:
        for line in table(args):
            print(line, flush=True)
    import torch

    from dynaconv.native import instruction_set

    print(
        f"\n{args.network}, {args.side} pixels, milliseconds, medians of {args.processes} x {args.rounds} alternating "
        f"rounds, torch {torch.__version__}, {instruction_set()}, {processors()}"
    )


if __name__ == "__main__":
    main()
