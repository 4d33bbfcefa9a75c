"""Describes networks for the Hub, from a training run or from a network in memory."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from torch import nn

from dynaconv.conversion import conversion_of
from dynaconv.errors import CheckpointError
from dynaconv.families.contract.checks import check_module
from dynaconv.hub.build import build_network
from dynaconv.hub.config import HubConfig, creation_options, pretrained_fields
from dynaconv.train.checkpoint import MODEL_FILE, load_trained
from dynaconv.train.folders import CONFIG_FILE, SUMMARY_FILE
from dynaconv.train.options import choice_text

_RESULTS = (
    *("train_images", "val_images", "test_images", "epochs", "test_accuracy", "test_top5", "test_loss"),
    *("val_accuracy", "per_class", "weights", "seed", "train_seconds", "device", "versions"),
)
_SETTINGS = {
    "data": ("batch_size", "augment"),
    "model": ("optimizer", "lr", "weight_decay", "schedule", "label_smoothing", "mix"),
    "trainer": ("gradient_clip_val", "precision"),
}
# timm's settings for resizing the whole image.
_SMALL = {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear"}


def load_run(path: str | Path, license: str | None) -> tuple[nn.Module, HubConfig]:
    """Load the network of a training run, and describe it.

    Args:
        path: As for `dynaconv.train.checkpoint.load_trained`.
        license: Identifier of the weights' licence; by default timm's entry for the network.

    Raises:
        CheckpointError: The checkpoint does not exist or is damaged.
    """
    network, metadata = load_trained(path)
    small = metadata.get("style", "small") == "small"
    settings = {**(getattr(network, "pretrained_cfg", None) or {}), "crop_mode": "center", **metadata}
    settings |= {"license": license} if license else {}
    settings |= _SMALL if small else {}
    # "random" is an option for training; evaluation then uses bicubic.
    if settings.get("interpolation") == "random":
        settings["interpolation"] = "bicubic"
    return network, HubConfig(
        model=metadata["model"].split(".", 1)[0],
        model_options=creation_options(metadata.get("model_options")),
        num_classes=metadata["num_classes"],
        in_channels=metadata["in_channels"],
        class_names=tuple(map(str, metadata["class_names"])),
        image_size=metadata["image_size"],
        style="small" if small else "photo",
        conversion=metadata.get("conversion"),
        training=_training(Path(path).expanduser(), metadata),
        **pretrained_fields(settings),
    )


def describe_network(
    network: nn.Module, given: Mapping[str, Any], model_options: Mapping[str, Any] | None, image_size: int | None
) -> HubConfig:
    """Describe a timm network in memory. Arguments that are None are read from the attributes that timm sets on it.

    Args:
        network: The network.
        given: Entries that replace those of its ``pretrained_cfg``.
        model_options, image_size: As for `HubConfig`.

    Raises:
        CheckpointError: The network lacks an attribute for an argument that is None, or the values do not agree.
    """
    check_module(network)
    own: dict[str, Any] = dict(getattr(network, "pretrained_cfg", None) or {})
    own |= {key: value for key, value in given.items() if value is not None}
    arguments = getattr(network, "_model_args", {})
    name, names = own.get("architecture"), own.get("label_names")
    if not name:
        raise CheckpointError(
            f"this {type(network).__name__} has no attribute with its timm name; pass model='...', "
            f"the name for timm.create_model."
        )
    channels, height, width = own.get("input_size", (3, 224, 224))
    if image_size is None and height != width:
        raise CheckpointError(
            f"{name} takes {height} x {width} pixels; pass image_size=..., the side length of a square."
        )
    first = network.state_dict().get(f"{own.get('first_conv')}.weight")
    config = HubConfig(
        model=str(name).split(".", 1)[0],
        model_options=creation_options(arguments if model_options is None else model_options),
        num_classes=getattr(network, "num_classes", 0),
        in_channels=arguments.get("in_chans", channels) if first is None else first.shape[1],
        class_names=None if names is None else tuple(map(str, names)),
        image_size=height if image_size is None else image_size,
        style="photo",
        **pretrained_fields(own),
    )
    record = conversion_of(network)
    # Layers that the timm model has by itself are not part of the conversion.
    for layer in record and conversion_of(build_network(config)):
        record.pop(layer, None)
    return dataclasses.replace(config, conversion=json.loads(json.dumps(record))) if record else config


def _training(path: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Read facts about a run from its files, without paths of the machine it ran on."""
    data = dict(metadata.get("data") or {})
    facts: dict[str, Any] = {"data": _data_name(data), **(metadata.get("metrics") or {})}
    folder = path if path.is_dir() else path.parent
    # A single file may be in any folder. Other files of that folder belong to its run only if it has this name.
    if path.is_dir() or path.name == MODEL_FILE:
        summary = _read(folder / SUMMARY_FILE, json.loads)
        if summary.get("model") == metadata["model"]:
            facts |= {key: summary[key] for key in _RESULTS if summary.get(key) is not None}
    settings = {"data": data, **(_read(folder / CONFIG_FILE, yaml.safe_load) if path.is_dir() else {})}
    facts["settings"] = {
        key: choice_text(settings[section][key])
        for section, keys in _SETTINGS.items()
        for key in keys
        if isinstance(settings.get(section), dict) and settings[section].get(key) is not None
    }
    return facts


def _read(file: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        content = parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{file} cannot be read: {' '.join(str(error).split())}.") from error
    return content if isinstance(content, dict) else {}


def _data_name(data: Mapping[str, Any]) -> str | None:
    """Return the data set's name; for a folder of images, the name of the folder without its path."""
    name, folder = data.get("name"), data.get("data_dir")
    if name == "folder" and folder:
        return Path(folder).name
    return Path(name).name if isinstance(name, str) and Path(name).is_absolute() else name
