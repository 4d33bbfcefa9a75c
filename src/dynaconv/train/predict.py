"""Classifies image files with a trained network."""

import glob
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from dynaconv.errors import DataError
from dynaconv.families.contract.checks import check_integer
from dynaconv.train.data.image_file import Mode, open_image
from dynaconv.train.data.transforms import BatchTransform, SmallTransform, photo_transform
from dynaconv.train.data.tree import LeftOut, images_below

_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The classes that a network predicts for one image.

    Attributes:
        image: The file.
        classes: The most likely classes with their probabilities, in descending order.
    """

    image: Path
    classes: tuple[tuple[str, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        classes = [{"class": name, "probability": probability} for name, probability in self.classes]
        return {"image": str(self.image), "top": classes}


def input_transform(metadata: Mapping[str, Any]) -> Callable[[Image.Image], Tensor]:
    """Return the evaluation transform of a checkpoint, from an image to its normalised ``(C, H, W)`` tensor."""
    mean, std = tuple(metadata["mean"]), tuple(metadata["std"])
    size = int(metadata["image_size"])
    if metadata.get("style", "small") == "small":
        return SmallTransform(transform=BatchTransform(mean=mean, std=std), image_size=size)
    return photo_transform(
        training=False,
        image_size=size,
        mean=mean,
        std=std,
        crop_pct=metadata["crop_pct"],
        interpolation=metadata["interpolation"],
        options={},
        crop_mode=metadata.get("crop_mode", "center"),
    )


def find_images(names: Iterable[str], *, on_error: Callable[[DataError], None]) -> list[Path]:
    """Return the image files that names stand for, in the order of the names and sorted within each.

    A folder stands for all image files in it and its subfolders, a pattern such as ``photos/*.jpg`` for the files and
    folders that match. Any other name is returned as it is.

    Args:
        names: Files, folders and patterns.
        on_error: Called with an error for a folder that cannot be read, and a folder or pattern without images.
    """
    images: list[Path] = []
    for name in names:
        given = Path(name).expanduser()
        is_pattern = glob.has_magic(name) and not given.exists()
        paths = map(Path, sorted(glob.glob(str(given), recursive=True)) if is_pattern else [given])
        found: list[Path] = []
        errors: list[DataError] = []
        for path in paths:
            try:
                found += images_below(path, LeftOut()) if path.is_dir() else [path]
            except DataError as error:
                errors.append(error)
        if not found and not errors:
            where = "that matches" if is_pattern else "in the folder"
            errors.append(DataError(f"there is no image file {where} {name}."))
        for each in errors:
            on_error(each)
        images += found
    return images


@torch.inference_mode()
def predict(
    model: nn.Module,
    metadata: Mapping[str, Any],
    images: Sequence[str | Path],
    *,
    top: int = 5,
    on_error: Callable[[DataError], None] | None = None,
) -> list[Prediction]:
    """Classify image files.

    Args:
        model: A network in eval mode, as `load_trained` returns it.
        metadata: Its metadata, which determines greyscale or colour, size and normalisation.
        images: The files; each is converted to the format that the network was trained on.
        top: Number of classes to return, at most all of them.
        on_error: Called with the error of a file that is not a readable image, which is then left out; by default the
            error is raised.

    Raises:
        DataError: A file is missing or is not an image, and ``on_error`` is not given.
    """
    check_integer("top", top)
    mode: Mode = "L" if metadata["in_channels"] == 1 else "RGB"
    transform, names = input_transform(metadata), metadata["class_names"]
    predictions: list[Prediction] = []
    for start in range(0, len(images), _BATCH):
        batch: list[tuple[Path, Tensor]] = []
        for path in (Path(image).expanduser() for image in images[start : start + _BATCH]):
            try:
                batch.append((path, transform(open_image(path, mode))))
            except DataError as error:
                if on_error is None:
                    raise
                on_error(error)
        if not batch:
            continue
        paths, tensors = zip(*batch, strict=True)
        most_likely = model(torch.stack(tensors)).float().softmax(1).topk(min(top, len(names)))
        for path, values, indices in zip(paths, *(t.tolist() for t in most_likely), strict=True):
            classes = tuple((names[index], value) for index, value in zip(indices, values, strict=True))
            predictions.append(Prediction(image=path, classes=classes))
    return predictions
