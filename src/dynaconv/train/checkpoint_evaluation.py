"""A trained network on a data set again: the one it was trained on, or another with the same classes."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from dynaconv.errors import DataError, RunError
from dynaconv.train.data.module import ImageDataModule
from dynaconv.train.data.source import Split
from dynaconv.train.data.sources import GREY_SOURCES, absolute_location, is_folder_name, missing_folder
from dynaconv.train.evaluate import Evaluation, evaluate

SplitName = Literal["train", "val", "test"]


def evaluate_checkpoint(
    model: nn.Module,
    metadata: Mapping[str, Any],
    *,
    data: str | None = None,
    data_dir: str | None = None,
    split: SplitName = "test",
    batch_size: int = 256,
    num_workers: int | None = None,
    device: torch.device | str = "cpu",
    report: Callable[[int], None] | None = None,
) -> Evaluation:
    """Evaluate a loaded checkpoint.

    Args:
        model, metadata: As `load_trained` gives them.
        data, data_dir: The data set; by default the one of the training run, split as it was.
        split: Which part of it.
        batch_size, num_workers: Of the loader.
        device: Where to compute; the model is moved there.
        report: Called with the number of images done after each batch.

    Raises:
        DataError: The data cannot be read, or its classes are not the checkpoint's.
        RunError: The checkpoint does not say what it was trained on and ``data`` is not given.
    """
    module = checkpoint_data(metadata, data, data_dir, batch_size, num_workers)
    check_classes(module, metadata)
    chosen = choose_split(module, split)
    loader = module.eval_loader(chosen)
    return evaluate(model.to(device), loader, metadata["class_names"], device=device, report=report)


def checkpoint_data(
    metadata: Mapping[str, Any], data: str | None, data_dir: str | None, batch_size: int, num_workers: int | None
) -> ImageDataModule:
    """The data of a checkpoint, prepared as its network expects it; see `evaluate_checkpoint`."""
    trained = dict(metadata.get("data") or {})
    if data is None and "name" not in trained:
        raise RunError("the checkpoint does not say which data it was trained on; pass --data NAME.")
    if data is None and data_dir is None:
        _check_still_there(trained["name"], trained.get("data_dir"))
    name = trained.get("name")
    same = data is None or name in (data, absolute_location(data, None)[0])
    # A folder that was moved is split as it was; so is another in its place.
    moved = data is not None and name is not None and is_folder_name(data) and is_folder_name(name)
    keys = ["classes", "options"] if same else []
    keys += ["val_fraction", "test_fraction", "split_seed"] if same or moved else []
    options: dict[str, Any] = {key: trained[key] for key in keys if trained.get(key) is not None}
    if (data or name) in GREY_SOURCES and metadata["in_channels"] != 1:
        raise DataError(
            f"{data or name} is greyscale, and the checkpoint's model takes images of {metadata['in_channels']} "
            f"channels; give data in colour."
        )
    module = ImageDataModule(
        name=data if data is not None else trained["name"],
        data_dir=data_dir if data_dir is not None else (trained.get("data_dir") if same else None),
        channels=metadata["in_channels"],
        image_size=metadata["image_size"],
        eval_batch_size=batch_size,
        num_workers=num_workers,
        **options,
    )
    # The network expects what it was trained with, whatever the data set's own statistics are.
    module.mean, module.std = tuple(metadata["mean"]), tuple(metadata["std"])
    module.style = metadata.get("style", module.style)
    module.crop_pct = metadata.get("crop_pct", module.crop_pct)
    module.interpolation = metadata.get("interpolation", module.interpolation)
    return module


def _check_still_there(name: str, data_dir: str | None) -> None:
    if (gone := missing_folder(name, data_dir)) is not None:
        flag = "--data" if is_folder_name(name) else "--data-dir"
        raise RunError(f"the folder {gone} it was trained on is not there; pass {flag} DIR.")


def check_classes(module: ImageDataModule, metadata: Mapping[str, Any]) -> None:
    """Raise DataError unless the data has the checkpoint's classes, in their order."""
    ours, theirs = tuple(metadata["class_names"]), tuple(module.class_names)
    if len(ours) != len(theirs):
        raise DataError(
            f"the data set {module.name!r} has {len(theirs)} classes, the checkpoint's model {len(ours)}; "
            f"give the data it was trained on, or one with the same classes."
        )
    unlike = next(((a, b) for a, b in zip(ours, theirs, strict=True) if a != b), None)
    if unlike is not None:
        raise DataError(
            f"the data set {module.name!r} calls a class {unlike[1]!r} where the checkpoint's model has "
            f"{unlike[0]!r}; give data with the same classes."
        )


def choose_split(module: ImageDataModule, split: SplitName) -> Split:
    """The images of one part of the data; DataError where the run held out none."""
    if split == "test":
        return module.source.test
    if split == "train":
        return module.train_split
    if module.val_split is None:
        raise DataError(f"the run on {module.name!r} held out no validation images; use --split test.")
    return module.val_split
