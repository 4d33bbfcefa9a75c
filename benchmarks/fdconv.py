"""Time an FDConv layer, and its parts, beside the static convolution.

    python benchmarks/fdconv.py            # the table of docs/families/fdconv.md, one thread
    python benchmarks/fdconv.py --batch 8 --rounds 11

The candidates of a size take turns. The time is the processor's, which other programs lengthen less than the clock's.
Set MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ to 1000000000 to leave page faults out of all of them.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from algorithms import step
from torch import Tensor, nn

from dynaconv import FDConv2d
from dynaconv.markdown import markdown_table
from dynaconv.measure.timing import median_ratio, time_in_turns

SIZES = (56, 14)
CHANNELS = 64


def candidates(side: int, batch: int) -> tuple[dict[str, Callable[[], Any]], dict[str, Callable[[], Any]]]:
    """Calls in inference mode, and training steps."""
    static = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
    layer = FDConv2d.from_conv(static)
    x = torch.randn(batch, CHANNELS, side, side)
    deployed = layer.eval().deployed()
    few = FDConv2d.from_conv(static, num_kernels=8).eval().deployed()
    calls: dict[str, Callable[[Tensor], Tensor]] = {
        "nn.Conv2d": static,
        "FDConv2d": layer,
        "deployed": deployed,
        "deployed, K = 8": few,
        "its bands": layer.modulate,
        "its kernel": layer.kernel,
    }
    trained = FDConv2d.from_conv(static).train()
    steps: dict[str, Callable[[Tensor], Tensor]] = {
        "nn.Conv2d": static,
        "FDConv2d": trained,
        "its bands": trained.modulate,
        "its kernel": trained.kernel,
    }
    wanted = x.clone().requires_grad_()
    return (
        {name: partial(call, x) for name, call in calls.items()},
        {name: step(call, wanted, train=True) for name, call in steps.items()},
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="batch of the training step; inference has one image")
    parser.add_argument("--rounds", type=int, default=21)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for side in SIZES:
        inference, _ = candidates(side, 1)
        _, training = candidates(side, args.batch)
        for what, calls, mode in (("eager, batch 1", inference, True), (f"step, batch {args.batch}", training, False)):
            with torch.inference_mode(mode):
                times = time_in_turns(calls, args.rounds, warmup=2, clock=time.process_time)
            for name, seconds in times.items():
                ratio = median_ratio(seconds, times["nn.Conv2d"])
                rows.append([f"{side}x{side}", what, name, f"{1e3 * statistics.median(seconds):.2f}", f"{ratio:.1f}"])
    print("\n".join(markdown_table(["input", "run", "what", "ms", "ratio"], rows, "lllr")))
    print(f"\n{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")


if __name__ == "__main__":
    main()
