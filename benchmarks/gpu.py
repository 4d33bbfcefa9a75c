"""Training steps and inference of every family on a GPU: eager, compiled and as CUDA graphs, float32 and bfloat16.

    python benchmarks/gpu.py --out docs/results/gpu.md          # after `pytest -m gpu`, as `make gpu` does
    python benchmarks/gpu.py --device cpu --quick               # the script itself, on a small network

Every cell is the median of alternating rounds, with the ratio to the static network in the same mode and precision. An
inference is a batch in eval mode after `deploy`; a training step is a forward pass, cross entropy over 1,000 classes, a
backward pass and SGD with momentum. In a training step bfloat16 is autocast; for an inference the network is converted.
A failed cell holds its reason, and the others are measured.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dynaconv.models  # noqa: F401  # registers the networks with timm
from dynaconv import deploy
from dynaconv.families import families
from dynaconv.files import write_text
from dynaconv.markdown import markdown_table
from dynaconv.measure.timing import time_in_turns

MODES = ("eager", "compiled", "CUDA graphs")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Call = Callable[[], object]


def in_mode(call: Callable[..., Any], mode: str) -> Callable[..., Any]:
    """Return a function as it is, under `torch.compile`, or also with its kernels recorded as a CUDA graph."""
    if mode == "eager":
        return call
    return torch.compile(call, dynamic=False, mode="reduce-overhead" if mode == "CUDA graphs" else "default")


def inference(network: nn.Module, x: Tensor, mode: str, dtype: torch.dtype) -> Call:
    """Return a call of the deployed network."""
    deployed, x = deploy(network.eval()).to(dtype), x.to(dtype)
    run = in_mode(deployed, mode)

    def call() -> object:
        with torch.inference_mode():
            return run(x)

    return call


def training_step(network: nn.Module, x: Tensor, mode: str, dtype: torch.dtype) -> Call:
    """Return a training step, which changes the network's weights."""
    classes = torch.randint(0, 1000, (len(x),), device=x.device)
    optimizer = torch.optim.SGD(network.train().parameters(), lr=1e-3, momentum=0.9)
    run = in_mode(network, mode)

    def call() -> object:
        optimizer.zero_grad()
        with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
            loss: Tensor = F.cross_entropy(run(x), classes)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss

    return call


TASKS = {"inference": inference, "training step": training_step}


def cells(args: argparse.Namespace, task: str, mode: str, precision: str) -> dict[str, float | str]:
    """Return the milliseconds of each network, or the reason why there are none."""
    calls: dict[str, Call] = {}
    found: dict[str, float | str] = {}
    for name in args.networks:
        torch.manual_seed(0)
        torch.compiler.reset()
        try:
            network = timm.create_model(f"{name}_{args.size}").to(args.device)
            x = torch.randn(args.batch, 3, args.side, args.side, device=args.device)
            calls[name] = TASKS[task](network, x, mode, PRECISIONS[precision])
            calls[name]()
        # One network's failure is a result; the others are measured.
        except Exception as error:
            calls.pop(name, None)
            found[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else repr(error)
    times = time_in_turns(calls, args.rounds, warmup=2, device=torch.device(args.device)) if calls else {}
    return found | {name: 1e3 * statistics.median(each) for name, each in times.items()}


def rows(args: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the table's rows."""
    for task in TASKS:
        for mode in args.modes:
            for precision in PRECISIONS:
                found = cells(args, task, mode, precision)
                static = found["static"]
                for name in args.networks:
                    value = found[name]
                    ratio = f"{value / static:.2f}" if isinstance(value, float) and isinstance(static, float) else ""
                    shown = f"{value:.2f}" if isinstance(value, float) else value.replace("|", "/")
                    yield [task, mode, precision, name, shown, ratio]
                    print(*(task, mode, precision, name, shown, ratio), sep=", ", file=sys.stderr, flush=True)


def main() -> None:
    """Print the table, and write it where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = ["static", *(family.name for family in families())]
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", default="mobilenetv2_100", help="the end of the timm names, such as resnet18")
    parser.add_argument("--networks", nargs="+", choices=every, default=every)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--quick", action="store_true", help="a small network, two images of 64 pixels, two rounds, eager"
    )
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(
            "this machine has no CUDA device that torch can use; --device cpu --quick tries the script itself."
        )
    if args.quick:
        args.size, args.batch, args.side, args.rounds, args.modes = "mobilenetv2_035", 2, 64, 2, ["eager"]
    if "static" not in args.networks:
        args.networks = ["static", *args.networks]
    device = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else "processor"
    columns = ["what", "mode", "precision", "network", "ms", "/ static"]
    conditions = (
        f"{args.size}, batch {args.batch}, {args.side} pixels, {device}, torch {torch.__version__}, medians of "
        f"{args.rounds} alternating rounds, TF32 {'on' if torch.backends.cuda.matmul.allow_tf32 else 'off'}"
    )
    text = "\n".join([*markdown_table(columns, rows(args), "llllr"), "", conditions, ""])
    print(text)
    if args.out is not None:
        write_text(args.out, text)


if __name__ == "__main__":
    main()
