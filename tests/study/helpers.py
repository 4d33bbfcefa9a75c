"""A study of a minute's fraction, and the folder of a training."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dynaconv.train.checkpoint import save_trained
from dynaconv.train.config import load_recipe, resolve, to_yaml
from dynaconv.train.factory import create_network
from tests.train.helpers import DIGITS

TINY: dict[str, Any] = {
    "title": "Tiny",
    "base": {
        "data": {"name": "digits", "batch_size": 32, "train_limit": 96, "image_size": 8},
        "model": {"name": "test_resnet", "lr": 0.05},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "limit_val_batches": 0},
    },
    "seeds": 2,
    "reference": "slow",
    "variants": {"slow": {}, "fast": {"title": "a higher rate", "change": {"model.lr": 0.1}}},
}


def write_study(path: Path, **changes: Any) -> Path:
    """Write the tiny study, with top-level keys changed."""
    path.write_text(yaml.safe_dump(copy.deepcopy(TINY) | changes, sort_keys=False))
    return path


def write_static_run(
    folder: Path, *, losses: Sequence[float] = (1.5,), model: str = "static_resnet10", mix: str | None = None
) -> Path:
    """Write what `dynaconv advise` reads of a run: its configuration, its network, and the losses of its epochs."""
    folder.mkdir()
    network = create_network(model, num_classes=10, in_channels=1, options={"channels": [4, 4, 4, 4]})
    facts = {"model": model, "model_options": {"channels": [4, 4, 4, 4]}, **DIGITS}
    save_trained(folder / "model.safetensors", network, facts)
    mixing = [] if mix is None else [f"--model.mix={mix}"]
    (folder / "config.yaml").write_text(to_yaml(resolve(load_recipe("digits"), mixing)))
    lines = [f"{epoch},{loss}" for epoch, loss in enumerate(losses, 1)]
    (folder / "metrics.csv").write_text("\n".join(["epoch,train_loss", *lines]))
    return folder
