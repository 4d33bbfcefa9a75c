"""Time the algorithms of a family layer by layer, and hold the cost model of `algorithm="auto"` against the clock.

    python benchmarks/algorithms.py                  # DCD: medians, ratios, what auto chooses and what that loses
    python benchmarks/algorithms.py --family dyconv condconv --batch 1 8 64
    python benchmarks/algorithms.py --fit            # and the rates of a Machine that fit these medians best
    python benchmarks/algorithms.py --train --batch 1 32

The candidates of a shape take turns. Ratios are to the static convolution of the same shape.
On one thread the time is the processor's, which other programs on the machine lengthen little.
"""

import argparse
import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn

from dynaconv.families import get_family
from dynaconv.measure.timing import time_in_turns
from dynaconv.ops import DEFAULT_MACHINE, Cost, Machine, cheapest


class Shape(NamedTuple):
    """One convolution: channels in and out, kernel size, groups, side of the square input, stride."""

    in_channels: int
    out_channels: int
    kernel_size: int
    groups: int
    side: int
    stride: int = 1


SHAPES = [
    # Pointwise layers of MobileNetV2 x1.0 at 224 pixels, then depthwise ones.
    Shape(16, 96, 1, 1, 112),
    Shape(144, 24, 1, 1, 56),
    Shape(32, 192, 1, 1, 28),
    Shape(384, 64, 1, 1, 14),
    Shape(96, 576, 1, 1, 14),
    Shape(160, 960, 1, 1, 7),
    Shape(960, 320, 1, 1, 7),
    Shape(336, 56, 1, 1, 2),
    Shape(96, 96, 3, 96, 56),
    Shape(96, 96, 3, 96, 112, 2),
    Shape(384, 384, 3, 384, 14),
    Shape(960, 960, 3, 960, 7),
    # Spatial layers of ResNet-18.
    Shape(64, 64, 3, 1, 56),
    Shape(64, 128, 3, 1, 56, 2),
    Shape(128, 128, 3, 1, 28),
    Shape(256, 256, 3, 1, 14),
    Shape(512, 512, 3, 1, 7),
]

FAMILIES: dict[str, dict[str, Any]] = {
    "dcd": {},
    "condconv": {"num_experts": 8},
    "dyconv": {"num_kernels": 4},
    "odconv": {"num_kernels": 4},
    "se": {},
}
"""Hyperparameters of each family that is timed."""

FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def step(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, train: bool) -> Callable[[], object]:
    """A forward pass, or with ``train`` a forward and a backward pass."""

    def forward() -> object:
        with torch.inference_mode():
            return function(x)

    def both() -> None:
        torch.autograd.backward(function(x).sum())

    return both if train else forward


def measure(
    family: str, shape: Shape, batch: int, args: argparse.Namespace
) -> tuple[dict[str, float], dict[str, Cost]]:
    """Medians of the static convolution and of each algorithm, and the costs the model counts."""
    c_in, c_out, k, groups, side, stride = shape
    layout = FORMATS[args.memory_format]
    x = torch.randn(batch, c_in, side, side).contiguous(memory_format=layout).requires_grad_(args.train)
    static = nn.Conv2d(c_in, c_out, k, stride, k // 2, groups=groups, bias=False)
    layer = get_family(family).layer.from_conv(static, **FAMILIES[family])
    layers: dict[str, nn.Module] = {"static": static}
    for name in layer.algorithms:
        layers[name] = get_family(family).layer.from_conv(static, algorithm=name, **FAMILIES[family])
    calls = {name: step(each.to(memory_format=layout), x, args.train) for name, each in layers.items()}
    clock = time.process_time if args.threads == 1 else time.perf_counter
    times = time_in_turns(calls, args.repeats, warmup=1, clock=clock)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    return medians, layer.algorithm_costs((batch, c_in, side, side))


def fit(rows: list[tuple[Cost, float]]) -> Machine:
    """Rates with the least relative squared error over (cost, seconds of the whole layer, its branch included)."""
    matrix = np.array([list(cost) for cost, _ in rows], dtype=float)
    seconds = np.array([second for _, second in rows])
    weights = 1 / seconds
    spread = matrix.max(axis=0)
    solution, _ = nnls(matrix / spread * weights[:, None], np.ones(len(rows)))
    per_unit = np.maximum(solution / spread, 1e-15)
    return Machine(1 / per_unit[0], 1 / per_unit[1], 1 / per_unit[2], float(per_unit[3]))


def report(family: str, args: argparse.Namespace) -> list[tuple[Cost, float]]:
    """Print one line a shape and batch, then how often `auto` was right and what it lost; return costs and times."""
    rows, lost = [], []
    for shape, batch in itertools.product(SHAPES, args.batch):
        seconds, costs = measure(family, shape, batch, args)
        choice, best = cheapest(costs), min(costs, key=lambda name: seconds[name])
        lost.append(seconds[choice] / seconds[best])
        rows += [(costs[name], seconds[name]) for name in costs]
        cells = "  ".join(f"{n} {1e3 * s:8.3f} ({s / seconds['static']:5.2f})" for n, s in seconds.items())
        print(f"{tuple(shape)!s:28s} B={batch:<3d} {cells}  auto: {choice:8s} {lost[-1]:.2f} of the best", flush=True)
    right, near = sum(ratio == 1 for ratio in lost), sum(ratio < 1.1 for ratio in lost)
    print(
        f"{family}: auto chose the fastest in {right} of {len(lost)}, one within 10 % of it in {near}; "
        f"time over the best: mean {np.mean(lost):.3f}, worst {max(lost):.2f}"
    )
    return rows


def main() -> None:
    """Time every shape and batch of every family asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=["dcd"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--memory-format", choices=FORMATS, default="channels_last")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--train", action="store_true", help="time forward and backward")
    parser.add_argument("--fit", action="store_true", help="fit the rates of a Machine to these medians")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    mode = "forward and backward" if args.train else "forward"
    print(f"{mode}, float32, {args.memory_format}, {args.threads} threads, torch {torch.__version__}, ", end="")
    print(f"{platform.machine()}, {os.cpu_count()} cores; milliseconds, ratio to static in brackets")
    print("shape: channels in, channels out, kernel size, groups, side, stride")
    rows = [row for family in args.family for row in report(family, args)]
    if args.fit:
        print("now   ", DEFAULT_MACHINE)
        print("fitted", fit(rows))


if __name__ == "__main__":
    main()
