"""Which start and which dynamic branch train at a rate at which the static network trains?

    python benchmarks/stability.py                     # every variant, one seed, about half a minute each on one core
    python benchmarks/stability.py --seeds 3 --lr 0.5 default static

MobileNetV2 x0.35 on 12,800 Fashion-MNIST images, SGD with Nesterov momentum 0.9 at a deliberately high rate, cosine,
300 steps of batch 64, weight decay 5e-4, the classifier starting from zero. Accuracy is on the first 2,000 test
images.
"""

import argparse
import math
import statistics
import time
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dynaconv
import dynaconv.models  # registers the networks with timm
from dynaconv.train.data.sources import load_source
from dynaconv.train.module import draw_classifier

BARE = {"context_norm": None, "hidden_norm": None, "weight_norm": False, "scale_activation": "linear"}
BATCH = {"hidden_norm": None, "weight_norm": False}
LAYER = {
    "context_norm": "layer",
    "gain": 0.1,
    "weight_norm": False,
    "scale_activation": "linear",
    "min_hidden_channels": 4,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "static": ("static", {}),
    "default": ("dcd", {}),
    "gain 0.3": ("dcd", {"gain": 0.3}),
    "gain 3": ("dcd", {"gain": 3}),
    "linear Lambda": ("dcd", {"scale_activation": "linear"}),
    "Lambda only": ("dcd", {"variant": "scale"}),
    "residual only": ("dcd", {"variant": "residual"}),
    "no weight norm": ("dcd", {"weight_norm": False}),
    "no weight norm, hidden vector not normalised": ("dcd", BATCH),
    "bare branch": ("dcd", BARE),
    "layer norm, gain 0.1": ("dcd", LAYER),
    "layer norm, gain 1": ("dcd", {**LAYER, "gain": 1}),
    "layer norm, hidden vector not normalised": ("dcd", {**LAYER, "hidden_norm": None}),
    "layer norm, weight norm, gain 1": ("dcd", {"context_norm": "layer"}),
    "norm batch": ("dcd", {"norm": "batch", "min_hidden_channels": 4}),
}


def images_and_classes(split: Any, count: int) -> tuple[Tensor, Tensor]:
    """The first ``count`` images, standardised, and their classes."""
    images = split.images[:count].float() / 255
    return (images - images.mean()) / images.std(), split.targets[:count]


def make(family: str, options: dict[str, Any], seed: int) -> nn.Module:
    """A network for 28 pixels whose classifier starts from zero."""
    torch.manual_seed(seed)
    name = f"{family}_mobilenetv2_035"
    model: nn.Module = timm.create_model(name, num_classes=10, in_chans=1, stem_stride=2, family_options=options)
    draw_classifier(model, 0.0)
    return model.to(memory_format=torch.channels_last)


def train(model: nn.Module, data: tuple[Tensor, Tensor], args: argparse.Namespace, seed: int) -> list[float]:
    """Losses of every step; ends early at one that is not finite."""
    images, classes = data
    groups = dynaconv.parameter_groups(model, args.lr, 5e-4)
    optimizer = torch.optim.SGD(groups, lr=args.lr, momentum=0.9, nesterov=True)
    generator, losses = torch.Generator().manual_seed(seed), []
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1, (step + 1) / 30) * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        rows = torch.randint(len(images), (64,), generator=generator)
        loss = F.cross_entropy(model(images[rows].contiguous(memory_format=torch.channels_last)), classes[rows])
        optimizer.zero_grad()
        loss.backward()
        if args.clip:
            nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        optimizer.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
    return losses


def main() -> None:
    """Print one line a variant: accuracy over seeds, and the loss in six parts of the first run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", default=list(VARIANTS), metavar="VARIANT", help=", ".join(VARIANTS))
    parser.add_argument("--lr", type=float, default=0.2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--clip", type=float, default=0.0, help="largest gradient norm; 0 does not clip")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    unknown = [name for name in args.variants if name not in VARIANTS]
    if unknown:
        parser.error(f"unknown variant {unknown[0]!r}; use {', '.join(VARIANTS)}")
    torch.set_num_threads(args.threads)
    source = load_source("fashion-mnist")
    data, (images, classes) = images_and_classes(source.train, 12_800), images_and_classes(source.test, 2_000)
    print(f"lr {args.lr}, clip {args.clip or 'off'}, {args.threads} threads, torch {torch.__version__}, ", end="")
    print(f"dynaconv {dynaconv.__version__}; accuracy, mean loss of six equal parts of the run")
    for name in args.variants:
        start, accuracies, shown = time.time(), [], ""
        for seed in range(args.seeds):
            model = make(*VARIANTS[name], seed)
            losses = train(model, data, args, seed)
            size = max(1, args.steps // 6)
            parts = [statistics.mean(losses[at : at + size]) for at in range(0, len(losses), size)]
            shown = shown or " ".join(f"{part:.2f}" for part in parts)
            model.eval()
            with torch.inference_mode():
                logits = torch.cat([model(chunk) for chunk in images.split(500)])
            accuracies.append((logits.argmax(1) == classes).float().mean().item())
        each = " ".join(f"{accuracy:6.1%}" for accuracy in accuracies)
        print(f"{name:44s} {each}   loss {shown}   {(time.time() - start) / args.seeds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
