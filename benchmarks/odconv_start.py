"""How ODConv networks start: the gradients of one batch, block by block, beside those of the static twin.

    python benchmarks/odconv_start.py

A row is a network at its initial weights in train mode, on one batch of Fashion-MNIST. `turn` is how far a step of SGD
at rate 1 would turn the kernels of a block, |gradient| / |kernel|, median over its layers; `all` is the norm of the
whole gradient, which clipping compares with its limit.
"""

import argparse
import statistics
from collections.abc import Iterator

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dynaconv.models  # noqa: F401
from dynaconv.layers import DynamicConv2d, ODConv2d, set_temperature
from dynaconv.study.load import load_study
from dynaconv.train.config import make_parser, resolve

BLOCKS = (0, 2, 4, 6)


def first_batch() -> tuple[Tensor, Tensor]:
    """The first batch of the study mobilenetv2."""
    config = load_study("mobilenetv2").base.with_changes(seed=0)
    images, targets = next(iter(make_parser().instantiate(resolve(config)).data.train_dataloader()))
    return images, targets


def network(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, in_chans=1, stem_stride=2, **options)
    # timm's own draw is wide for ten classes.
    nn.init.normal_(model.get_classifier().weight, std=0.01)
    return model.train()


def odconv(temperature: float, *, published_heads: bool = False) -> nn.Module:
    """ODConv (1) as it is built, or with heads as large as the published ones."""
    model = network("odconv_mobilenetv2_035", family_options={"num_kernels": 1})
    set_temperature(model, temperature)
    if published_heads:
        for layer in odconv_layers(model):
            layer.branch.reset_parameters()
    return model


def odconv_layers(model: nn.Module) -> list[ODConv2d]:
    return [module for module in model.modules() if isinstance(module, ODConv2d)]


def cases() -> Iterator[tuple[str, nn.Module]]:
    """Networks by title."""
    yield "static", network("static_mobilenetv2_035")
    for temperature in (30.0, 1.0):
        yield f"ODConv (1), temperature {temperature:g}", odconv(temperature)
    for temperature in (30.0, 10.0, 3.0, 1.0):
        yield f"heads as published, temperature {temperature:g}", odconv(temperature, published_heads=True)
    model = odconv(1.0, published_heads=True)
    for layer in odconv_layers(model):
        layer.branch.register_forward_pre_hook(lambda _, inputs: (inputs[0].detach(),))
    yield "the same, no gradient through the contexts", model
    model = odconv(1.0)
    with torch.no_grad():
        for layer in odconv_layers(model):
            layer.weight.div_(layer.neutral_gain)
    yield "ODConv (1), temperature 1, kernels divided by what the sigmoids start at", model


def turns(model: nn.Module) -> dict[int, float]:
    """Median of |gradient| / |kernel| over the dynamic or static convolutions of each block."""
    by_block: dict[int, list[float]] = {}
    for name, module in model.named_modules():
        if name.startswith("blocks.") and isinstance(module, nn.Conv2d | DynamicConv2d):
            weight = module.weight
            assert weight.grad is not None
            by_block.setdefault(int(name.split(".")[1]), []).append(
                (weight.grad.norm() / weight.detach().norm()).item()
            )
    return {block: statistics.median(values) for block, values in by_block.items()}


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    images, targets = first_batch()
    print("| network | all | " + " | ".join(f"turn, block {block}" for block in BLOCKS) + " |")
    print("| --- |" + " ---: |" * (1 + len(BLOCKS)))
    for title, model in cases():
        F.cross_entropy(model(images), targets).backward()
        norm = float(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
        found = turns(model)
        print(f"| {title} | {norm:.1f} | " + " | ".join(f"{found[block]:.2g}" for block in BLOCKS) + " |", flush=True)


if __name__ == "__main__":
    main()
