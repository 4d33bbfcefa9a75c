"""Runs and networks that the tests of the hub share."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

import dynaconv.models  # noqa: F401  # registers the names
from dynaconv.families import DynamicConv2d
from dynaconv.train.checkpoint import MODEL_FILE, save_trained

CLASSES = ("cat", "dog", "owl", "yak", "ant", "bee", "fox")
MODEL, OPTIONS = "dcd_mobilenetv2_035", {"stem_stride": 2}
METRICS = {"test_accuracy": 0.8982, "test_loss": 0.3076, "test_top5": 0.9984}


def trained(network: nn.Module) -> nn.Module:
    """Give every parameter and statistic a value of its own, as training would, in eval mode."""
    generator = torch.Generator().manual_seed(1)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    channels = next(module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        # The statistics become those of these images.
        for norm in norms:
            norm.momentum = 1.0
        network.train()(images(channels, 20, batch=8))
        for norm in norms:
            norm.momentum = 0.1
    return network.eval()


def make_run(folder: Path, *, model: str = MODEL, options: dict[str, Any] | None = None, **changes: Any) -> nn.Module:
    """Write the files that a finished run leaves."""
    options = OPTIONS if options is None else options
    network = trained(timm.create_model(model, num_classes=len(CLASSES), in_chans=1, **options))
    data = {"name": "/home/ada/pets", "data_dir": None, "batch_size": 64, "augment": "auto"}
    metadata = {
        "model": model,
        "model_options": options,
        "num_classes": len(CLASSES),
        "class_names": list(CLASSES),
        "in_channels": 1,
        "image_size": 20,
        "mean": [0.3],
        "std": [0.4],
        "style": "small",
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "data": data,
        "metrics": METRICS,
        **changes,
    }
    folder.mkdir()
    save_trained(folder / MODEL_FILE, network, metadata)
    summary = {
        **METRICS,
        "model": model,
        "train_images": 57000,
        "val_images": 3000,
        "test_images": 10000,
        "epochs": 5,
        "val_accuracy": 0.9083,
        "per_class": {name: 0.125 * index for index, name in enumerate(CLASSES)},
        "weights": {"checkpoint": "best.ckpt", "epoch": 4, "ema": True},
        "seed": 3,
        "data": "/home/ada/pets",
        "command": "dynaconv train --data /home/ada/pets",
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    sgd = "{class_path: dynaconv.train.options.SGD, init_args: {momentum: 0.9}}"
    (folder / "config.yaml").write_text(f"model:\n  optimizer: {sgd}\n  lr: 0.05\ntrainer:\n  max_epochs: 5\n")
    return network


def images(channels: int, size: int, batch: int = 3) -> Tensor:
    """Random images."""
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(2))


def dynamic_layers(network: nn.Module) -> list[DynamicConv2d]:
    """The dynamic layers of a network."""
    return [module for module in network.modules() if isinstance(module, DynamicConv2d)]
