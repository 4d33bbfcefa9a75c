"""Time the algorithms of DCD layer by layer, and hold the cost model behind `algorithm="auto"` against the clock.

    python benchmarks/algorithms.py                  # medians, ratios, what auto chooses and what that loses
    python benchmarks/algorithms.py --fit            # and the rates of a Machine that fit these medians best
    python benchmarks/algorithms.py --train --batch 1 32

The candidates of a shape alternate within one run. Ratios are to the static convolution of the same shape.
"""

import argparse
import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn

from dynaconv import DCDConv2d
from dynaconv.ops.common import DEFAULT_MACHINE, Cost, Machine, cheapest


class Shape(NamedTuple):
    """One convolution: channels in and out, kernel size, groups, side of the square input."""

    in_channels: int
    out_channels: int
    kernel_size: int
    groups: int
    side: int


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
    Shape(384, 384, 3, 384, 14),
    # Spatial layers of ResNet-18.
    Shape(64, 64, 3, 1, 56),
    Shape(128, 128, 3, 1, 28),
    Shape(512, 512, 3, 1, 7),
]


def median_seconds(candidates: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median time of each candidate, called in turn."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(repeats + 1):
        for name, call in candidates.items():
            start = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def step(layer: nn.Module, x: torch.Tensor, train: bool) -> Callable[[], object]:
    """A forward pass, or with ``train`` a forward and a backward pass."""

    def forward() -> object:
        with torch.inference_mode():
            return layer(x)

    def both() -> object:
        return layer(x).sum().backward()

    return both if train else forward


def measure(shape: Shape, batch: int, train: bool, repeats: int) -> tuple[dict[str, float], dict[str, Cost]]:
    """Medians of static, kernel and factored, and the costs the model counts."""
    c_in, c_out, k, groups, side = shape
    x = torch.randn(batch, c_in, side, side).contiguous(memory_format=torch.channels_last).requires_grad_(train)
    static = nn.Conv2d(c_in, c_out, k, padding=k // 2, groups=groups, bias=False)
    layers = {"static": static} | {name: DCDConv2d.from_conv(static, algorithm=name) for name in ("kernel", "factored")}
    calls = {name: step(layer.to(memory_format=torch.channels_last), x, train) for name, layer in layers.items()}
    dynamic = layers["kernel"]
    assert isinstance(dynamic, DCDConv2d)
    return median_seconds(calls, repeats), dynamic.algorithm_costs((batch, c_in, side, side))


def fit(rows: list[tuple[Cost, float]]) -> Machine:
    """Rates with the least relative squared error over (cost, seconds of the whole layer, its branch included)."""
    matrix = np.array([list(cost) for cost, _ in rows], dtype=float)
    seconds = np.array([second for _, second in rows])
    weights = 1 / seconds
    spread = matrix.max(axis=0)
    solution, _ = nnls(matrix / spread * weights[:, None], np.ones(len(rows)))
    per_unit = np.maximum(solution / spread, 1e-15)
    return Machine(1 / per_unit[0], 1 / per_unit[1], 1 / per_unit[2], float(per_unit[3]))


def main() -> None:
    """Print one line a shape and batch, then how often `auto` was right and what it lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--train", action="store_true", help="time forward and backward")
    parser.add_argument("--fit", action="store_true", help="fit the rates of a Machine to these medians")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    mode = "forward and backward" if args.train else "forward"
    print(
        f"{mode}, float32, channels_last, {args.threads} threads, torch {torch.__version__}, {platform.machine()}",
        end="",
    )
    print(f", {os.cpu_count()} cores; milliseconds, ratio to static in brackets")
    rows, lost = [], []
    for shape, batch in itertools.product(SHAPES, args.batch):
        seconds, costs = measure(shape, batch, args.train, args.repeats)
        choice, best = cheapest(costs), min(costs, key=lambda name: seconds[name])
        lost.append(seconds[choice] / seconds[best])
        rows += [(costs[name], seconds[name]) for name in costs]
        cells = "  ".join(f"{n} {1e3 * s:8.3f} ({s / seconds['static']:5.2f})" for n, s in seconds.items())
        print(f"{shape!s:88s} B={batch:<3d} {cells}  auto: {choice:8s} {lost[-1]:.2f} of the best")
    right = sum(ratio == 1 for ratio in lost)
    print(
        f"auto chose the faster one in {right} of {len(lost)}; "
        f"time over the best: mean {np.mean(lost):.3f}, worst {max(lost):.2f}"
    )
    if args.fit:
        print("now   ", DEFAULT_MACHINE)
        print("fitted", fit(rows))


if __name__ == "__main__":
    main()
