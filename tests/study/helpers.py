"""A study of a minute's fraction."""

import copy
from pathlib import Path
from typing import Any

import yaml

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
