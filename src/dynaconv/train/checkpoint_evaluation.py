"""Evaluates a trained network on the data set it was trained on, or on another with the same classes."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.data import IterableDataset

from dynaconv.errors import DataError, RunError
from dynaconv.train.data.module import ImageDataModule
from dynaconv.train.data.source import Split
from dynaconv.train.data.sources import GREY_SOURCES, absolute_location, is_folder_name, missing_folder
from dynaconv.train.data.splits import subset_of
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
        model, metadata: As `load_trained` returns them.
        data, data_dir: The data set; by default that of the training run, with the same splits.
        split: The split to evaluate on.
        batch_size, num_workers: Options of the data loader.
        device: Device to compute on; the model is moved to it.
        report: Called after each batch with the number of images evaluated so far.

    Raises:
        DataError: The data cannot be read, or its classes are not the checkpoint's.
        RunError: ``data`` is not given, and the checkpoint does not name its data set or the folder of it is missing.
    """
    module = checkpoint_data(metadata, data, data_dir, batch_size, num_workers)
    loader = module.eval_loader(choose_split(module, split))
    return evaluate(model.to(device), loader, metadata["class_names"], device=device, report=report)


def checkpoint_data(
    metadata: Mapping[str, Any], data: str | None, data_dir: str | None, batch_size: int, num_workers: int | None
) -> ImageDataModule:
    """Return a data set with the classes of a checkpoint, preprocessed as its network expects it.

    The arguments and errors are those of `evaluate_checkpoint`.
    """
    trained = dict(metadata.get("data") or {})
    if data is None and "name" not in trained:
        raise RunError("the checkpoint does not name the data set it was trained on; pass --data NAME.")
    if data is None and data_dir is None:
        _check_folder_exists(trained["name"], trained.get("data_dir"))
    name = trained.get("name")
    same = data is None or name in (data, absolute_location(data, None)[0])
    # A folder at another path, which may be the same one moved, is split with the same fractions and seed.
    moved = data is not None and name is not None and is_folder_name(data) and is_folder_name(name)
    keys = ["classes", "options"] if same else []
    keys += ["val_fraction", "test_fraction", "split_seed"] if same or moved else []
    options: dict[str, Any] = {key: trained[key] for key in keys if trained.get(key) is not None}
    if (data or name) in GREY_SOURCES and metadata["in_channels"] != 1:
        raise DataError(
            f"{data or name} is greyscale, but the checkpoint's model takes images of {metadata['in_channels']} "
            f"channels; pass a data set in colour."
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
    # The network expects the preprocessing it was trained with, not one by the data set's own statistics.
    module.mean, module.std = tuple(metadata["mean"]), tuple(metadata["std"])
    module.style = metadata.get("style", module.style)
    module.crop_pct = metadata.get("crop_pct", module.crop_pct)
    module.interpolation = metadata.get("interpolation", module.interpolation)
    _check_classes(module, metadata)
    return module


def _check_folder_exists(name: str, data_dir: str | None) -> None:
    if (missing := missing_folder(name, data_dir)) is not None:
        flag = "--data" if is_folder_name(name) else "--data-dir"
        raise RunError(f"the folder {missing} of the training data does not exist; pass {flag} DIR.")


def _check_classes(module: ImageDataModule, metadata: Mapping[str, Any]) -> None:
    expected, present = tuple(metadata["class_names"]), tuple(module.class_names)
    if len(expected) != len(present):
        raise DataError(
            f"the data set {module.name!r} has {len(present)} classes, the checkpoint's model {len(expected)}; "
            f"pass the data set it was trained on, or one with the same classes."
        )
    mismatch = next(((a, b) for a, b in zip(expected, present, strict=True) if a != b), None)
    if mismatch is not None:
        raise DataError(
            f"the data set {module.name!r} has the class {mismatch[1]!r} where the checkpoint's model has "
            f"{mismatch[0]!r}; pass a data set with the same classes."
        )


def choose_split(module: ImageDataModule, split: SplitName) -> Split:
    """Return a split of the data; raises `DataError` if it is "val" and no validation images were held out."""
    if split == "test":
        return module.source.test
    if split == "train":
        return module.train_split
    if module.val_split is None:
        raise DataError(f"the run on {module.name!r} held out no validation images; use --split test.")
    return module.val_split


def random_images(module: ImageDataModule, split: SplitName, count: int, *, seed: int) -> Split:
    """Return random images of a split, because folders are sorted by class; a stream is returned whole.

    Raises:
        DataError: The split is "val" and no validation images were held out.
    """
    chosen: Any = choose_split(module, split)
    if isinstance(chosen, IterableDataset):
        return chosen
    order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))
    indices = sorted(order[:count].tolist())
    return subset_of(chosen, indices)
