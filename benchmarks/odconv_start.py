"""How ODConv networks start, beside their static twin: the gradients of one batch, or what a short training comes to.

    python benchmarks/odconv_start.py                # seconds
    python benchmarks/odconv_start.py --steps 374    # trains, two to three minutes a network on one core

The networks are those of the study mobilenetv2, seed 0. Without `--steps` a row is a network at its initial weights in
train mode, on one batch. `turn` is how far a step of SGD at rate 1 would turn the kernels of a block, |gradient| /
|kernel|, median over its layers; `all` is the norm of the whole gradient, which clipping compares with its limit.
"""

import argparse
import math
import statistics
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from dynaconv.families import DynamicConv, ODConv2d, set_temperature
from dynaconv.markdown import markdown_table
from dynaconv.study.load import load_study
from dynaconv.train.config import make_parser, resolve

BLOCKS = (0, 2, 4, 6)
WARM_UP = 94
CLIP = 5.0
TESTED = 2000


class Case(NamedTuple):
    """A network and what is done to it; `annealed` lets the temperature fall from 30 over a third of the steps."""

    title: str
    temperature: float | None = None
    heads: float = 1.0
    divided_kernels: bool = False
    deaf_branch: bool = False
    annealed: bool = False


STARTS = (
    Case("static"),
    Case("ODConv (1), temperature 30", 30),
    Case("ODConv (1), temperature 1", 1),
    Case("heads as published, temperature 30", 30, 10),
    Case("heads as published, temperature 10", 10, 10),
    Case("heads as published, temperature 3", 3, 10),
    Case("heads as published, temperature 1", 1, 10),
    Case("the same, no gradient through the contexts", 1, 10, deaf_branch=True),
    Case("ODConv (1), temperature 1, kernels divided by what the sigmoids start at", 1, divided_kernels=True),
)
TRAININGS = (
    Case("static"),
    Case("ODConv (1), temperature 30 to 1", 1, annealed=True),
    Case("ODConv (1), temperature 1", 1),
    Case("heads as published, temperature 30 to 1", 1, 10, annealed=True),
    Case("kernels divided by what the sigmoids start at, temperature 30 to 1", 1, divided_kernels=True, annealed=True),
    Case("kernels divided by what the sigmoids start at, temperature 1", 1, divided_kernels=True),
)


def build(case: Case) -> Any:
    """Data and module of a case, as `dynaconv train` would make them."""
    name = "static" if case.temperature is None else "odconv-1"
    resolved = resolve(load_study("mobilenetv2").variants[name].config.with_changes(seed=0))
    torch.manual_seed(0)
    built = make_parser().instantiate(resolved)
    model = built.model.model.train()
    with torch.no_grad():
        for layer in [module for module in model.modules() if isinstance(module, ODConv2d)]:
            for head in layer.branch.heads.values():
                head.weight.mul_(case.heads)
            if case.divided_kernels:
                layer.weight.div_(layer.neutral_gain)
            if case.deaf_branch:
                layer.branch.register_forward_pre_hook(lambda _, inputs: (inputs[0].detach(),))
    if case.temperature is not None:
        set_temperature(model, case.temperature)
    return built


def turns(model: nn.Module) -> dict[int, float]:
    """Median of |gradient| / |kernel| over the convolutions of each block."""
    by_block: dict[int, list[float]] = {}
    for name, module in model.named_modules():
        if name.startswith("blocks.") and isinstance(module, nn.Conv2d | DynamicConv):
            weight = module.weight
            assert weight.grad is not None
            turn = weight.grad.norm() / weight.detach().norm()
            by_block.setdefault(int(name.split(".")[1]), []).append(turn.item())
    return {block: statistics.median(values) for block, values in by_block.items()}


def start(case: Case) -> list[str]:
    """A row: the gradient of the first batch."""
    built = build(case)
    model = built.model.model
    # The study starts it at zero, which lets no gradient through.
    nn.init.normal_(model.get_classifier().weight, std=0.01)
    images, targets = next(iter(built.data.train_dataloader()))
    F.cross_entropy(model(images), targets).backward()
    norm = float(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
    found = turns(model)
    return [case.title, f"{norm:.1f}", *(f"{found[block]:.2g}" for block in BLOCKS)]


def train(case: Case, steps: int) -> list[str]:
    """A row: the mean loss of the last 50 steps, and accuracy on the first test images."""
    built = build(case)
    model, options = built.model.model, built.model.hparams
    optimizer, losses = built.model.make_optimizer(options["lr"]), []
    loader = built.data.train_dataloader()
    batches = iter(loader)
    for step in range(steps):
        if case.annealed:
            set_temperature(model, max(30 - (30 - 1) * 3 * step / steps, 1.0))
        falling = 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / (steps - WARM_UP)))
        for group in optimizer.param_groups:
            group["lr"] = options["lr"] * ((step + 1) / (WARM_UP + 1) if step < WARM_UP else falling)
        try:
            images, targets = next(batches)
        except StopIteration:
            batches = iter(loader)
            images, targets = next(batches)
        optimizer.zero_grad()
        out = model(images.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(out, targets, label_smoothing=options["label_smoothing"])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(loss.item())
    right = count = 0
    model.eval()
    with torch.inference_mode():
        for images, targets in built.data.test_dataloader():
            out = model(images.contiguous(memory_format=torch.channels_last))
            right, count = right + int((out.argmax(1) == targets).sum()), count + len(targets)
            if count >= TESTED:
                break
    return [case.title, f"{statistics.mean(losses[-50:]):.2f}", f"{right / count:.1%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, help=f"train so long, more than {WARM_UP}")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.steps is None:
        lines = markdown_table(["network", "all", *(f"turn, block {block}" for block in BLOCKS)], map(start, STARTS))
    else:
        rows = (train(case, arguments.steps) for case in TRAININGS)
        lines = markdown_table(["network", "loss", "accuracy"], rows)
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
