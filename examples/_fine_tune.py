"""A short training loop: fine-tune a classifier on Fashion-MNIST, test it once, and keep a record."""

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.train.data.source import TensorImages, stratified_split
from dynaconv.train.data.sources import load_source
from dynaconv.train.data.transforms import resize_batch


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What each network may spend. Both get the same.

    Attributes:
        images: Training images; as many of each class.
        validation_images: Other training images, for the curves; nothing is chosen by them.
        test_images: Of the 10,000 test images.
        image_size: Side length the 28x28 images are enlarged to.
        epochs, batch_size, lr: Of AdamW, whose rate rises over the first twentieth and falls along a cosine.
    """

    images: int = 12_000
    validation_images: int = 2_000
    test_images: int = 10_000
    image_size: int = 64
    epochs: int = 3
    batch_size: int = 64
    lr: float = 3e-3


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Images for training, for the curves, and for the one test at the end."""

    train: TensorImages
    validation: TensorImages
    test: TensorImages


def load_splits(budget: Budget, data_dir: Path | None = None) -> Splits:
    """Fashion-MNIST in the sizes of the budget; which images are taken depends on nothing else.

    Raises:
        DataError: The data is not there.
    """
    source = load_source("fashion-mnist", data_dir=data_dir)
    rest, held_out = _take(source.train, budget.validation_images)
    chosen = rest if budget.images >= len(rest) else _take(rest, budget.images)[1]
    tested = source.test if budget.test_images >= len(source.test) else _take(source.test, budget.test_images)[1]
    enlarged = [
        TensorImages(images=resize_batch(split.images, budget.image_size), targets=split.targets)
        for split in (chosen, held_out, tested)
    ]
    return Splits(train=enlarged[0], validation=enlarged[1], test=enlarged[2])


def _take(split: TensorImages, count: int) -> tuple[TensorImages, TensorImages]:
    kept, taken = stratified_split(split.targets, count / len(split), seed=0)
    return split.subset(kept), split.subset(taken)


def as_input(images: Tensor) -> Tensor:
    """Grey bytes ``(B, 1, H, W)`` as the pretrained network wants them: ``(B, 3, H, W)`` in [-1, 1]."""
    normalised = images.float() / 127.5 - 1
    return normalised.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def fine_tune(network: nn.Module, splits: Splits, budget: Budget, seed: int) -> dict[str, Any]:
    """Train every weight of ``network`` in place.

    Order and mirroring of the images depend on the seed alone, so two networks see the same batches.

    Returns:
        ``step_loss`` of every batch; ``val_loss`` and ``val_accuracy`` after every epoch; ``test_accuracy`` and
        ``test_loss`` of the last epoch's weights; seconds of training and ``cpu_seconds``, which other programs on
        the machine disturb less.
    """
    network.to(memory_format=torch.channels_last)
    shuffler = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=budget.lr)
    steps_per_epoch = len(splits.train) // budget.batch_size
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_cosine(budget.epochs * steps_per_epoch))
    record: dict[str, Any] = {"step_loss": [], "val_loss": [], "val_accuracy": [], "seconds": 0.0, "cpu_seconds": 0.0}
    for _ in range(budget.epochs):
        wall, cpu = time.perf_counter(), time.process_time()
        network.train()
        order = torch.randperm(len(splits.train), generator=shuffler)
        for rows in order[: steps_per_epoch * budget.batch_size].split(budget.batch_size):
            images = splits.train.images[rows]
            mirrored = torch.rand(len(rows), generator=shuffler) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
            loss = F.cross_entropy(network(as_input(images)), splits.train.targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            record["step_loss"].append(loss.item())
        record["seconds"] += time.perf_counter() - wall
        record["cpu_seconds"] += time.process_time() - cpu
        val_loss, accuracy = evaluate(network, splits.validation)
        record["val_loss"].append(val_loss)
        record["val_accuracy"].append(accuracy)
    record["test_loss"], record["test_accuracy"] = evaluate(network, splits.test)
    return {**record, "seed": seed, "budget": asdict(budget)}


@torch.inference_mode()
def evaluate(network: nn.Module, split: TensorImages) -> tuple[float, float]:
    """Mean cross-entropy and accuracy in [0, 1], in eval mode, where the network is left."""
    network.eval()
    batches = zip(split.images.split(100), split.targets.split(100), strict=True)
    outputs = [(network(as_input(images)), targets) for images, targets in batches]
    logits = torch.cat([output for output, _ in outputs])
    return F.cross_entropy(logits, split.targets).item(), (logits.argmax(1) == split.targets).float().mean().item()


def _warm_cosine(steps: int) -> Any:
    warm = max(1, steps // 20)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2

    return factor
