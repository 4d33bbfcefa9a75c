"""What a training step costs beside the static network's: time, and memory kept for the backward pass.

    python benchmarks/training.py                                  # the table of docs/training-cost.md, two threads
    python benchmarks/training.py --threads 1 --only static dcd    # the processor's time, which other programs spare
    python benchmarks/training.py --compile --only static dcd      # and each under torch.compile
    python benchmarks/training.py --size resnet18 --case 16 128
    python benchmarks/training.py --accelerate                     # and each by compiled operators
    python benchmarks/training.py --size resnet10 --case 128 32 --accelerate --threads 1   # as in the studies

One step is a forward pass, cross entropy over 1,000 classes, a backward pass and SGD with momentum, on random images.
All candidates of a case are built first and take turns. Every network is taken in contiguous and in channels_last
memory format; ratios are to the better of the static network's two. Freed memory stays with the process, as in
`dynaconv train`.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from _families import labels, number_option
from _literal import literal_condconv, literal_dcd
from _runtimes import give_back_memory, processors
from algorithms import FORMATS
from torch import nn

import dynaconv
import dynaconv.models  # noqa: F401  # registers the networks with timm
from dynaconv.files import write_text
from dynaconv.markdown import markdown_table
from dynaconv.measure.memory import saved_bytes
from dynaconv.measure.timing import time_in_turns
from dynaconv.native import accelerate_training
from dynaconv.train.allocator import keep_freed_memory

NARROW: dict[str, Any] = {"channels": (8, 16, 32, 64), "stem_stride": 2, "in_chans": 1, "num_classes": 500}
"""Arguments of the ResNet-10 of the studies."""


def _plain(name: str, **options: Any) -> Callable[[str], nn.Module]:
    given: dict[str, Any] = {"family_options": options} if options else {}
    return lambda size: timm.create_model(f"{name}_{size}", **given, **(NARROW if size == "resnet10" else {}))


def _registered() -> dict[str, Callable[[str], nn.Module]]:
    """Every family with its default options, under its name and the number of its kernels."""
    numbers = {name: number_option(name) for name in labels()}
    return {name if number is None else f"{name} ({number[1]:g})": _plain(name) for name, number in numbers.items()}


CANDIDATES: dict[str, Callable[[str], nn.Module]] = {
    "static": _plain("static"),
    **_registered(),
    "dcd, kernel": _plain("dcd", algorithm="kernel"),
    "dcd, factored": _plain("dcd", algorithm="factored"),
    "dcd published, literally": lambda size: literal_dcd(timm.create_model(f"dcd_{size}_published")),
    "dcd published, ours": lambda size: timm.create_model(f"dcd_{size}_published"),
    "condconv (8), timm's layer": lambda size: literal_condconv(timm.create_model(f"static_{size}")),
    "odconv (1)": _plain("odconv", num_kernels=1),
}


class Step:
    """One network in one memory format, and its training step."""

    def __init__(
        self, make: Callable[[str], nn.Module], size: str, layout: str, batch: int, side: int, *, accelerated: bool
    ) -> None:
        torch.manual_seed(0)
        model = make(size).train()
        x = torch.randn(batch, 1 if size == "resnet10" else 3, side, side)
        self.accelerated = accelerated
        if layout == "channels_last":
            model, x = model.to(memory_format=FORMATS[layout]), x.contiguous(memory_format=FORMATS[layout])
        self.network, self.model, self.x = model, model, x
        self.classes = torch.randint(0, 500 if size == "resnet10" else 1000, (batch,))
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)

    def compile(self) -> "Step":
        # Each case for itself: a second shape would otherwise be compiled as one of any size, where Inductor fails.
        self.model = torch.compile(self.network, dynamic=False)  # type: ignore[assignment]
        return self

    def __call__(self) -> None:
        accelerate_training(self.accelerated)
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(self.x), self.classes).backward()
        self.optimizer.step()

    def saved_mib(self) -> float:
        accelerate_training(self.accelerated)
        return saved_bytes(self.network, self.x) / 2**20


def measure(args: argparse.Namespace, batch: int, side: int) -> list[dict[str, Any]]:
    """One row a candidate and memory format."""
    keys = [(name, layout, mode) for name in args.only for layout in args.layouts for mode in args.modes]
    steps = {}
    for name, layout, mode in keys:
        step = Step(CANDIDATES[name], args.size, layout, batch, side, accelerated=mode == "accelerated")
        steps["|".join((name, layout, mode))] = step.compile() if mode == "compile" else step
    saved = {key: step.saved_mib() for key, step in steps.items()}
    for step in steps.values():
        step()
        step.optimizer.zero_grad()
        give_back_memory()
    clock = time.process_time if args.threads == 1 else time.perf_counter
    times = time_in_turns(dict(steps), args.rounds, warmup=1, clock=clock)
    seconds = {key: statistics.median(each) for key, each in times.items()}
    rows = []
    for key, second in seconds.items():
        name, layout, mode = key.split("|")
        twins = [k for k in seconds if k.startswith("static|")] or [key]
        rows.append(
            {
                "network": name,
                "layout": layout,
                "mode": mode,
                "batch": batch,
                "side": side,
                "milliseconds": 1e3 * second,
                "ratio": second / min(seconds[k] for k in twins),
                "saved_mib": saved[key],
                "saved_ratio": saved[key] / min(saved[k] for k in twins),
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: each network in its better format first."""
    columns = ("network", "format", "mode", "ms a step", "ratio", "kept, MiB", "ratio")
    forms = {"milliseconds": ".0f", "ratio": ".2f", "saved_mib": ".0f", "saved_ratio": ".2f"}
    cells = [
        [row["network"], row["layout"], row["mode"], *(format(row[key], form) for key, form in forms.items())]
        for row in rows
    ]
    return "\n".join(markdown_table(columns, cells, "lllr"))


def main() -> None:
    """Print one table a case, and write every row as JSON when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="mobilenetv2_100", help="the end of the timm names, such as resnet18")
    parser.add_argument("--case", nargs=2, type=int, action="append", metavar=("BATCH", "SIDE"))
    parser.add_argument("--only", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument("--layouts", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--accelerate", action="store_true", help="measure each by compiled operators too")
    parser.add_argument("--return-memory", action="store_true", help="leave the C library's allocator as it is")
    parser.add_argument("--compile", action="store_true", help="measure each under torch.compile too")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.modes = ["eager", *(["accelerated"] if args.accelerate else []), *(["compile"] if args.compile else [])]
    torch.set_num_threads(args.threads)
    if not args.return_memory:
        keep_freed_memory()
    conditions = (
        f"{args.size}, {args.threads} thread(s), {'processor' if args.threads == 1 else 'wall-clock'} time, medians of "
        f"{args.rounds} alternating rounds, torch {torch.__version__}, timm {timm.__version__}, "
        f"{platform.machine()}"
    )
    print(conditions)
    rows = []
    for batch, side in args.case or [(32, 128), (8, 224)]:
        found = measure(args, batch, side)
        print(f"\nbatch {batch}, {side} pixels ({processors()})\n\n{table(found)}", flush=True)
        rows += found
    if args.json:
        write_text(args.json, json.dumps({"conditions": conditions, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
