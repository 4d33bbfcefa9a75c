"""Small data and configurations that the tests of training share."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dynaconv.train.config import TrainConfig

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
