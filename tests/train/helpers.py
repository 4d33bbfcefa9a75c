"""Small data and configurations that the tests of training share."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback
from PIL import Image
from torch import Tensor

from dynaconv.train.config import TrainConfig
from dynaconv.train.data.module import ImageDataModule

DIGITS: dict[str, Any] = {
    "num_classes": 10,
    "in_channels": 1,
    "class_names": [*"0123456789"],
    "image_size": 16,
    "mean": [0.5],
    "std": [0.3],
    "data": {"name": "digits"},
}
"""What the checkpoint of a network of digits says, beside the network's name."""
# timm's smallest test network: 0.4 M parameters, a few milliseconds a step.
TINY_MODEL = "test_resnet"


_SMALL = {"class_path": "Small", "init_args": {"padding": 1}}


def tiny_config(**changes: Any) -> TrainConfig:
    """Two epochs of a tiny network on a few digits."""
    config = TrainConfig(
        seed=3,
        data={"name": "digits", "batch_size": 32, "train_limit": 160, "image_size": 16, "augment": _SMALL},
        model={"name": TINY_MODEL, "lr": 0.05, "schedule": {"warmup_epochs": 0.5}},
        trainer={"max_epochs": 2, "accelerator": "cpu", "devices": 1, "logger": False},
    )
    return config.with_changes(**changes)


def folder_config(folder: Path, **changes: Any) -> TrainConfig:
    """Two epochs of it on a folder of images."""
    data = {"name": str(folder), "image_size": 32, "batch_size": 4, "num_workers": 0, "val_fraction": 0}
    return tiny_config(data=data, **changes)


def send(number: int = signal.SIGINT) -> None:
    """Send a signal to this process."""
    os.kill(os.getpid(), number)


def failing(error: BaseException) -> Callable[[], None]:
    """A function that raises the error."""

    def fail() -> None:
        raise error

    return fail


class When(Callback):
    """Does something in a hook of Lightning, the first time that it is called after this step."""

    def __init__(self, hook: str, step: int, do: Callable[[], object] = send) -> None:
        done: list[int] = []

        def call(trainer: Any, *_: Any, **__: Any) -> None:
            if trainer.global_step == step and not trainer.sanity_checking and not done:
                done.append(step)
                do()

        setattr(self, hook, call)


def epoch_of(data: ImageDataModule, epoch: int = 2) -> dict[int, Tensor]:
    """Every training image of an epoch by its position."""
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    batches = [images for images, _ in loader]
    return dict(zip(loader.sampler, torch.cat(batches), strict=False))


class StopAfter(Callback):
    """Ends a run as a crash would, once an epoch's checkpoint is written."""

    def __init__(self, epochs: int, error: BaseException) -> None:
        self.epochs, self.error = epochs, error

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.epochs:
            raise self.error


def write_image(path: Path, value: int, *, size: tuple[int, int] = (20, 14), mode: str = "RGB") -> Path:
    """Write a noisy image of about one brightness."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(value).integers(0, 40, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray((noise + value).astype(np.uint8)).convert(mode).save(path)
    return path


def write_folder(root: Path, splits: tuple[str, ...] = ("train", "test"), images: int = 6) -> Path:
    """Write an image folder of two classes, dark and light."""
    for split in splits:
        for name, value in (("dark", 10), ("light", 200)):
            for index in range(images):
                write_image(root / split / name / f"{index}.png", value + index)
    return root
