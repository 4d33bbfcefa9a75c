"""Which networks convert, train and run elsewhere: every network of a list with every family.

    python benchmarks/compatibility.py                       # tries what has no result yet, then writes the page
    python benchmarks/compatibility.py --report              # the page of the results that are there
    python benchmarks/compatibility.py --again --families dcd --networks timm/resnet18

One process for each network and family, so that a crash or a timeout costs one cell. Results are in
``OUT/data/compatibility.csv``, written after each. A network whose dynamic export fails is exported static too.
"""

import argparse
import contextlib
import gc
import importlib
import itertools
import multiprocessing
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import _compatibility_store as store
import torch
from _compatibility_checks import EXPORTS, Outcome, check
from _compatibility_networks import Network, networks
from _compatibility_page import write_page
from _families import labels

ROOT = Path(__file__).parents[1]
Task = tuple[Network, str, bool]


def main() -> None:
    """Run what has no result yet, then write the page."""
    args = _arguments()
    table = args.out / "data" / "compatibility.csv"
    if not args.report:
        known = {each.key: each for each in networks()}
        chosen = [known[key] for key in args.networks or known]
        _run(chosen, args, table)
    page = args.out / "compatibility.md"
    write_page(page, networks(), store.read(table))
    print(f"wrote {page}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of the page and of the results")
    parser.add_argument("--networks", nargs="*", default=[], metavar="LIBRARY/NAME", help="in this order; default: all")
    parser.add_argument("--families", nargs="*", default=list(labels()), choices=(*labels(), "static"))
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time, one thread each")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one network and family")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start nothing after that long")
    parser.add_argument("--no-export", action="store_true", help="convert, compare and train only")
    parser.add_argument("--again", action="store_true", help="also what has a result")
    parser.add_argument("--report", action="store_true", help="write the page from the results, and run nothing")
    args = parser.parse_args()
    unknown = set(args.networks) - {each.key for each in networks()}
    if unknown:
        parser.error(f"unknown network {min(unknown)!r}; use {', '.join(each.key for each in networks())}")
    return args


def _run(chosen: list[Network], args: argparse.Namespace, table: Path) -> None:
    # Family by family: a run that is cut short has one family everywhere, and not every family somewhere.
    tasks: list[Task] = [(network, family, not args.no_export) for family in args.families for network in chosen]
    results = store.read(table)
    keys = itertools.product((each.key for each in networks()), (*labels(), "static"))
    places = {key: place for place, key in enumerate(keys)}
    if not args.again:
        tasks = [task for task in tasks if not _has_result(task, results)]
    _prepare_to_fork()
    running: list[_Worker] = []
    started = time.monotonic()
    while tasks or running:
        late = time.monotonic() - started > 60 * args.minutes
        while tasks and len(running) < args.jobs and not late:
            running.append(_Worker(tasks.pop(0)))
        if late and not running:
            return
        time.sleep(0.2)
        for worker in [each for each in running if each.finished(args.timeout)]:
            running.remove(worker)
            outcome = worker.outcome()
            results[outcome.key] = store.merged(results.get(outcome.key), outcome)
            store.write(table, sorted(results.values(), key=lambda each: places.get(each.key, len(places))))
            print(_line(outcome), f"({len(tasks)} to come)", flush=True)
            network, family, export = worker.task
            failed = export and outcome.errors.keys() & EXPORTS
            if failed and family != "static" and (network.key, "static") not in results:
                tasks.insert(0, (network, "static", True))


def _has_result(task: Task, done: dict[tuple[str, str], Outcome]) -> bool:
    network, family, export = task
    outcome = done.get((network.key, family))
    return outcome is not None and (outcome.exported or not export or bool(outcome.errors))


class _Worker:
    """A process that checks one network with one family."""

    def __init__(self, task: Task) -> None:
        self.task = task
        context = multiprocessing.get_context("fork")
        self._receiver, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(task, sender), daemon=True)
        self._process.start()
        sender.close()
        self._started = time.monotonic()
        self._outcome: Outcome | None = None

    def finished(self, timeout: float) -> bool:
        """Whether it has a result, has died, or was ended because of the time."""
        network, family, _ = self.task
        lost = Outcome(network=network.name, library=network.library, family=family, size=network.size)
        lost.versions, lost.seconds = store.versions(network.library), time.monotonic() - self._started
        if self._receiver.poll():
            try:
                self._outcome = self._receiver.recv()
            except EOFError:
                self._process.join()
                self._outcome = lost
                lost.errors["process"] = f"it ended with exit code {self._process.exitcode}"
        elif lost.seconds > timeout:
            self._process.kill()
            self._outcome = lost
            lost.errors["process"] = f"it took longer than {timeout:.0f} s"
        if self._outcome is None:
            return False
        self._process.join()
        return True

    def outcome(self) -> Outcome:
        """The result."""
        assert self._outcome is not None
        return self._outcome


def _work(task: Task, sender: Any) -> None:
    # Tracing makes millions of objects that live to its end: looking through them again and again is half its time.
    gc.disable()
    network, family, export = task
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
        os.dup2(nowhere.fileno(), sys.stderr.fileno())
        outcome = check(network, family, export=export)
        outcome.versions = store.versions(network.library)
        sender.send(outcome)


def _prepare_to_fork() -> None:
    """Load here, once, what every process needs; nothing that starts threads."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for name in ("segmentation_models_pytorch", "timm", "torchvision", "transformers"):
        # A library that is missing costs its own lines of the table.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    torch.onnx.export(torch.nn.Conv2d(3, 3, 1), (torch.zeros(2, 3, 2, 2),), dynamo=True, optimize=False, verbose=False)
    gc.freeze()


def _line(outcome: Outcome) -> str:
    parts = [f"{outcome.family:14s} {outcome.library}/{outcome.network}: {outcome.converted}/{outcome.convolutions}"]
    parts += [f"difference {outcome.difference:.1e}"] if outcome.difference is not None else []
    parts += [f"reached {outcome.reached}, varying {outcome.varying}"]
    for name in ("onnxruntime", "openvino"):
        values = getattr(outcome, name)
        parts += [f"{name} {max(values):.1e}"] if values else []
    parts += [f"{step} FAILED: {error}" for step, error in outcome.errors.items()]
    return ", ".join(parts) + f", {outcome.seconds:.0f} s"


if __name__ == "__main__":
    main()
