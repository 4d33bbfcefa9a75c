"""Describes networks for the Hub, from a training run or from a network in memory."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from dynaconv.errors import CheckpointError
from dynaconv.hub.config import PHOTO, SMALL, WEIGHT_OPTIONS, HubConfig

_SUMMARY_FILE, _SETTINGS_FILE = "summary.json", "config.yaml"
_RESULT_KEYS = (
    "train_images",
    "val_images",
    "test_images",
    "epochs",
    "test_accuracy",
    "test_top5",
    "test_loss",
    "val_accuracy",
    "per_class",
    "weights",
    "seed",
    "train_seconds",
    "device",
    "versions",
)
_SETTING_KEYS = {
    "data": ("batch_size", "augment", "padding", "flip", "erase_prob", "rand_augment"),
    "model": (
        "optimizer",
        "lr",
        "momentum",
        "weight_decay",
        "schedule",
        "warmup_epochs",
        "label_smoothing",
        "mixup",
        "cutmix",
    ),
    "trainer": ("gradient_clip_val", "precision"),
}


def load_run(path: str | Path, license: str | None) -> tuple[nn.Module, HubConfig]:
    """Load the network of a training run, and describe it.

    Args:
        path: As for `dynaconv.train.checkpoint.load_trained`.
        license: Identifier of the weights' licence; by default timm's entry for the network.

    Raises:
        CheckpointError: The checkpoint does not exist or is damaged.
    """
    try:
        from dynaconv.train.checkpoint import load_trained
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f'reading a run needs {error.name}, which is not installed; pip install "dynaconv[train]".'
        ) from error
    network, metadata = load_trained(path)
    own = _pretrained_cfg(network)
    small = metadata.get("style", SMALL) == SMALL
    interpolation = metadata.get("interpolation", "bicubic")
    config = HubConfig(
        model=metadata["model"].split(".", 1)[0],
        model_options=_without_reserved(metadata.get("model_options") or {}),
        num_classes=metadata["num_classes"],
        in_channels=metadata["in_channels"],
        class_names=tuple(map(str, metadata["class_names"])),
        image_size=metadata["image_size"],
        mean=tuple(metadata["mean"]),
        std=tuple(metadata["std"]),
        style=SMALL if small else PHOTO,
        crop_pct=1.0 if small else metadata["crop_pct"],
        crop_mode="squash" if small else "center",
        # "random" is an option for training; evaluation then uses bicubic.
        interpolation="bilinear" if small else "bicubic" if interpolation == "random" else interpolation,
        first_conv=own.get("first_conv"),
        classifier=own.get("classifier"),
        license=license or own.get("license"),
        training=_training(Path(path).expanduser(), metadata),
    )
    return network, config


def describe_network(
    network: nn.Module,
    *,
    model: str | None,
    model_options: Mapping[str, Any] | None,
    class_names: Sequence[str] | None,
    image_size: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    license: str | None,
) -> HubConfig:
    """Describe a timm network in memory. Arguments that are None are read from the attributes that timm sets on it.

    Raises:
        CheckpointError: The network lacks an attribute for an argument that is None, or the values do not agree.
    """
    own, arguments = _pretrained_cfg(network), dict(getattr(network, "_model_args", {}))
    name = model or own.get("architecture")
    if not name:
        raise CheckpointError(
            f"this {type(network).__name__} has no attribute with its timm name; pass model='...', "
            f"the name for timm.create_model."
        )
    classes = getattr(network, "num_classes", None) or arguments.get("num_classes")
    if not classes:
        raise CheckpointError(
            f"{name} has no classifier (num_classes is {classes!r}); a network for the hub needs one."
        )
    channels = arguments.get("in_chans") or _input_channels(network, own)
    height, width = own.get("input_size", (3, 224, 224))[1:]
    if image_size is None and height != width:
        raise CheckpointError(
            f"{name} takes {height} x {width} pixels; pass image_size=..., the side length of a square."
        )
    options = arguments if model_options is None else dict(model_options)
    given_names = class_names if class_names is not None else own.get("label_names")
    return HubConfig(
        model=name.split(".", 1)[0],
        model_options=_without_reserved(options),
        num_classes=classes,
        in_channels=channels,
        class_names=None if given_names is None else tuple(map(str, given_names)),
        image_size=height if image_size is None else image_size,
        mean=tuple(mean if mean is not None else own.get("mean", ())),
        std=tuple(std if std is not None else own.get("std", ())),
        style=PHOTO,
        crop_pct=own.get("crop_pct", 0.875),
        crop_mode=own.get("crop_mode", "center"),
        interpolation=own.get("interpolation", "bicubic"),
        first_conv=own.get("first_conv"),
        classifier=own.get("classifier"),
        license=license or own.get("license"),
    )


def _pretrained_cfg(network: nn.Module) -> dict[str, Any]:
    return dict(getattr(network, "pretrained_cfg", None) or {})


def _without_reserved(options: Mapping[str, Any]) -> dict[str, Any]:
    """Remove options that would load other weights, and those that have an attribute of their own."""
    return {key: value for key, value in options.items() if key not in (*WEIGHT_OPTIONS, "num_classes", "in_chans")}


def _input_channels(network: nn.Module, own: Mapping[str, Any]) -> int:
    first = own.get("first_conv")
    weight = network.state_dict().get(f"{first}.weight") if isinstance(first, str) else None
    return int(own.get("input_size", (3,))[0]) if weight is None else weight.shape[1]


def _training(path: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Read facts about a run from its files, without paths of the machine it ran on."""
    data = dict(metadata.get("data") or {})
    facts: dict[str, Any] = {"data": _data_name(data), **(metadata.get("metrics") or {})}
    folder = path if path.is_dir() else path.parent
    # A single file may be in any folder. Other files of that folder belong to its run only if it has this name.
    if path.is_dir() or path.name == "model.safetensors":
        summary = _summary(folder / _SUMMARY_FILE)
        if summary.get("model") == metadata["model"]:
            facts |= {key: summary[key] for key in _RESULT_KEYS if summary.get(key) is not None}
    settings = _settings(folder / _SETTINGS_FILE) if path.is_dir() else {}
    settings.setdefault("data", data)
    selected = {
        key: settings[section][key]
        for section, keys in _SETTING_KEYS.items()
        for key in keys
        if isinstance(settings.get(section), dict) and settings[section].get(key) is not None
    }
    return {**facts, "settings": selected}


def _summary(file: Path) -> dict[str, Any]:
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}.") from error
    return summary if isinstance(summary, dict) else {}


def _settings(file: Path) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]

    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{file} cannot be read: {' '.join(str(error).split())}.") from error
    return settings if isinstance(settings, dict) else {}


def _data_name(data: Mapping[str, Any]) -> str | None:
    """Return the data set's name; for a folder of images, the name of the folder without its path."""
    name, folder = data.get("name"), data.get("data_dir")
    if name == "folder" and folder:
        return Path(folder).name
    return Path(name).name if isinstance(name, str) and Path(name).is_absolute() else name
