"""How much slower the native kernels get when something else keeps processors busy, beside ONNX Runtime.

    python benchmarks/native_load.py                # the table of docs/native.md
    python benchmarks/native_load.py --busy 2 --batch 1

Static ONNX Runtime and DCD native take turns, each in a process of its own, with and without further processes that
compute without end, each bound to a processor, from the first on. A round is all of it, each for `--seconds` after a
warm-up of half of that; what counts are the medians over rounds, and of the ratios of one round.
"""

import argparse
import contextlib
import itertools
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from _runtimes import kept
from _turns import Load, candidates

from native import CANDIDATES, runner

LABELS = ("static ORT", "DCD native")


def burst(run: Callable[[], Any], seconds: float) -> float:
    """Median milliseconds of the calls that start within ``seconds``."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def serve(pipe: Connection, load: Load, args: argparse.Namespace) -> None:
    """Time a burst whenever asked for one."""
    run = load()
    run()
    pipe.send("ready")
    while pipe.recv():
        burst(run, args.seconds / 2)
        pipe.send(burst(run, args.seconds))


@contextlib.contextmanager
def busy(processors: int) -> Iterator[None]:
    """Keeps the first processors busy, each from a process of its own."""
    spin = "import os\nos.sched_setaffinity(0, {%d})\nwhile True: pass"
    loops = [subprocess.Popen([sys.executable, "-c", spin % index]) for index in range(processors)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure(batch: int, threads: int, args: argparse.Namespace) -> dict[tuple[str, int], list[float]]:
    """Milliseconds of each candidate by the processors that are kept busy, round by round."""
    size = (batch, 3, args.side, args.side)
    loads = {label: partial(runner, *CANDIDATES[label], size, threads, args) for label in LABELS}
    counts = [0, *args.busy]
    found: dict[tuple[str, int], list[float]] = {case: [] for case in itertools.product(LABELS, counts)}
    with candidates(loads, args, serve) as pipes:
        for _ in range(args.rounds):
            for count in random.sample(counts, len(counts)):
                with busy(count):
                    # The loops have to start, and the scheduler to move what it was running.
                    time.sleep(0.2)
                    for label in random.sample(LABELS, len(LABELS)):
                        pipes[label].send(True)
                        found[label, count].append(pipes[label].recv())
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="mobilenetv2_100", help="timm name without the family")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=0.4)
    parser.add_argument("--folder", type=Path, help="where the exported file is kept for the next time")
    parser.add_argument("--busy", type=int, nargs="+", default=[1], help="processors that are kept busy")
    args = parser.parse_args()
    if not all(1 <= count <= (os.cpu_count() or 1) for count in args.busy):
        parser.error(f"--busy is a number of processors, 1 to {os.cpu_count()}.")
    heads = [f"beside {count} busy, ms | ratio" for count in args.busy]
    print(f"| batch | threads | network | alone, ms | {' | '.join(heads)} |")
    print("|" + " --- |" * (4 + 2 * len(args.busy)), flush=True)
    with kept(args.folder) as args.folder:
        for batch, threads in itertools.product(args.batch, args.threads):
            found = measure(batch, threads, args)
            for label in LABELS:
                alone = found[label, 0]
                cells = [f"{statistics.median(alone):.2f}"]
                for count in args.busy:
                    loaded = found[label, count]
                    ratio = statistics.median(b / a for a, b in zip(alone, loaded, strict=True))
                    cells += [f"{statistics.median(loaded):.2f}", f"{ratio:.2f}"]
                print(f"| {batch} | {threads} | {label} | {' | '.join(cells)} |", flush=True)
    print(f"\n{args.network}, {args.side} pixels, medians of {args.rounds} rounds, {os.cpu_count()} CPUs")


if __name__ == "__main__":
    main()
