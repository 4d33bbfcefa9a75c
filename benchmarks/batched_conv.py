"""Time the algorithms of `batched_conv` and hold the choice of its cost model against the clock.

    python benchmarks/batched_conv.py
    python benchmarks/batched_conv.py --train --batch 1 8 32

The candidates of a shape take turns: one convolution of torch per sample, one matrix product per sample (``matmul``),
one convolution with the batch folded into groups (``grouped``). Times are the processor's on one thread.
"""

import argparse
import itertools
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from dynaconv.measure.timing import time_in_turns
from dynaconv.ops import Geometry, cheapest, transposed_geometry
from dynaconv.ops.per_sample import (
    grouped_per_sample,
    matmul_per_sample,
    per_sample_costs,
    reference_per_sample_conv,
)

Shape = tuple[int, int, Geometry, tuple[int, ...]]
"""Channels in and out, geometry, sizes of the input."""


def _conv(dims: int, channels: tuple[int, int], kernel: int, size: int, stride: int = 1, groups: int = 1) -> Shape:
    each = (kernel,) * dims, (stride,) * dims, (kernel // 2,) * dims, (1,) * dims
    return (*channels, Geometry(*each, groups), (size,) * dims)


def _transposed(dims: int, channels: tuple[int, int], kernel: int, size: int, stride: int) -> Shape:
    padding = (kernel - stride) // 2
    each = (kernel,) * dims, (stride,) * dims, (padding,) * dims, (1,) * dims
    return (*channels, transposed_geometry(*each, 1, (0,) * dims), (size,) * dims)


SHAPES = {
    # Speech and series: Wav2Letter, TCN, a vocoder.
    "conv1d": [
        _conv(1, (250, 250), 7, 100),
        _conv(1, (64, 64), 3, 1000),
        _conv(1, (128, 128), 3, 8000),
        _conv(1, (512, 512), 3, 50),
        _conv(1, (256, 256), 31, 200, groups=256),
        _conv(1, (32, 64), 8, 4000, 4),
    ],
    # ResNet-18, MobileNetV2, ShuffleNet.
    "conv2d": [
        _conv(2, (64, 64), 3, 56),
        _conv(2, (64, 128), 3, 56, 2),
        _conv(2, (128, 128), 3, 28),
        _conv(2, (256, 256), 3, 14),
        _conv(2, (512, 512), 3, 7),
        _conv(2, (96, 96), 3, 56, groups=96),
        _conv(2, (384, 384), 3, 14, groups=384),
        _conv(2, (128, 128), 3, 14, groups=8),
        _conv(2, (16, 16), 5, 28),
    ],
    # r3d_18 and the 3-D U-Net.
    "conv3d": [
        _conv(3, (64, 64), 3, 14),
        _conv(3, (128, 128), 3, 7),
        _conv(3, (16, 32), 3, 24),
        _conv(3, (64, 64), 3, 7, groups=64),
    ],
    "transposed": [
        _transposed(1, (128, 64), 16, 200, 8),
        _transposed(1, (64, 32), 4, 2000, 2),
        _transposed(2, (256, 128), 2, 14, 2),
        _transposed(2, (64, 32), 4, 28, 2),
        _transposed(2, (128, 128), 3, 14, 1),
        _transposed(3, (64, 32), 2, 8, 2),
    ],
}
ALGORITHMS: dict[str, Callable[..., torch.Tensor]] = {
    "per sample": reference_per_sample_conv,
    "matmul": matmul_per_sample,
    "grouped": grouped_per_sample,
}


def measure(shape: Shape, batch: int, args: argparse.Namespace) -> dict[str, float]:
    """Return the median seconds of each algorithm."""
    in_channels, out_channels, geometry, sizes = shape
    x = torch.randn(batch, in_channels, *sizes, requires_grad=args.train)
    kernel = torch.randn(
        batch, out_channels, in_channels // geometry.groups, *geometry.kernel_size, requires_grad=args.train
    )

    def call(function: Callable[..., torch.Tensor]) -> Callable[[], Any]:
        def run() -> Any:
            out = function(x, kernel, geometry)
            return torch.autograd.grad(out.sum(), (x, kernel)) if args.train else out

        return run

    with torch.set_grad_enabled(args.train):
        calls = {name: call(function) for name, function in ALGORITHMS.items()}
        times = time_in_turns(calls, args.repeats, warmup=1, clock=time.process_time)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def main() -> None:
    """Print one line for each shape and batch, then how often the model chose the faster algorithm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--train", action="store_true", help="forward and backward pass")
    parser.add_argument("--only", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, torch {torch.__version__}, one thread; milliseconds, and the ratio to one by one")
    lost = []
    for kind, batch in itertools.product(args.only, args.batch):
        for shape in SHAPES[kind]:
            seconds = measure(shape, batch, args)
            in_channels, out_channels, geometry, sizes = shape
            choice = cheapest(per_sample_costs(geometry, (batch, in_channels, *sizes), out_channels))
            best = min(("matmul", "grouped"), key=seconds.__getitem__)
            lost.append(seconds[choice] / seconds[best])
            cells = "  ".join(
                f"{name} {1e3 * each:8.3f} ({each / seconds['per sample']:4.2f})" for name, each in seconds.items()
            )
            size, kernel = sizes[0], geometry.kernel_size[0]
            name = f"{kind} {in_channels}->{out_channels} k{kernel} s{geometry.stride[0]} g{geometry.groups} on {size}"
            print(f"{name:40s} B={batch:<3d} {cells}  chosen: {choice:8s} {lost[-1]:.2f} of the best", flush=True)
    right, near = sum(ratio == 1 for ratio in lost), sum(ratio < 1.1 for ratio in lost)
    print(
        f"{len(lost)} shapes: fastest chosen in {right}, within 10 % in {near}; "
        f"mean loss {statistics.mean(lost):.3f}, largest {max(lost):.2f}"
    )


if __name__ == "__main__":
    main()
