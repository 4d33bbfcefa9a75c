"""Measure what `convert(net, family, context="block")` saves: parameters, multiply-adds, training steps and latency.

    python benchmarks/block_context.py    # two networks, three families, one thread
    python benchmarks/block_context.py --size 128 --rounds 9 --networks resnet18 --families dcd

The second command writes the table of docs/results/block-context.md.

Networks with a context of each layer's own and with one for each block take turns with the static network. The time is
the processor's, which other programs lengthen less than the clock's. The training step is one of batch 8.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from _runtimes import session
from algorithms import step
from torch import Tensor, nn

from dynaconv import convert, deploy, export_onnx, profile
from dynaconv.markdown import markdown_table
from dynaconv.measure.timing import median_ratio, time_in_turns

STEP_BATCH = 8
COLUMNS = ("network", "family", "context", "parameters", "MAdds", "training step", "eager", "ONNX Runtime")


def networks(name: str, family: str) -> dict[str, nn.Module]:
    """The static network, and the dynamic ones with contexts of their own and of blocks."""
    static = timm.create_model(name, num_classes=100).eval()
    return {
        "static": static,
        "own": convert(static, family),
        "block": convert(static, family, context="block"),
    }


def exported_call(network: nn.Module, x: Tensor, folder: Path) -> Callable[[], Any]:
    """A call of the exported network."""
    export_onnx(network, folder / "net.onnx", x, overwrite=True)
    return session(folder / "net.onnx", "ort", tuple(x.shape), threads=1)[1]


def rows(name: str, family: str, size: int, rounds: int) -> Iterator[list[str]]:
    """The rows of one network and family."""
    made, x = networks(name, family), torch.randn(1, 3, size, size)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        exported = {label: exported_call(network, x, Path(folder)) for label, network in made.items()}
        deployed = {label: partial(deploy(network, example=x), x) for label, network in made.items()}
        times = {
            "eager": time_in_turns(deployed, rounds, warmup=3, clock=time.process_time),
            "runtime": time_in_turns(exported, rounds, warmup=3, clock=time.process_time),
        }
    batch = torch.randn(STEP_BATCH, 3, size, size)
    steps = {label: step(network.train(), batch, train=True) for label, network in made.items()}
    times["step"] = time_in_turns(steps, max(3, rounds // 3), warmup=1, clock=time.process_time)
    for label, network in made.items():
        found = profile(network.eval(), (3, size, size))
        cells = [
            f"{1e3 * statistics.median(times[kind][label]):.1f} ms"
            + (f" (x{median_ratio(times[kind][label], times[kind]['static']):.2f})" if label != "static" else "")
            for kind in ("step", "eager", "runtime")
        ]
        shown = family if label != "static" else ""
        yield [name, shown, label if shown else "", f"{found.params:,}", f"{found.published_macs / 1e6:.1f}M", *cells]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["mobilenetv2_100", "resnet18"])
    parser.add_argument("--families", nargs="+", default=["dcd", "condconv", "odconv"])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    every = (
        row
        for name in arguments.networks
        for family in arguments.families
        for row in rows(name, family, arguments.size, arguments.rounds)
    )
    for line in markdown_table(COLUMNS, every, align="lllr"):
        print(line, flush=True)
    print(f"\ntorch {torch.__version__}, {platform.machine()}, one thread, {arguments.size} x {arguments.size} pixels")


if __name__ == "__main__":
    main()
