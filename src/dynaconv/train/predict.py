"""Classifies image files with a trained network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from dynaconv.train.data.image_file import Mode, open_image
from dynaconv.train.data.transforms import BatchTransform, SmallTransform, photo_transform

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
    )


@torch.inference_mode()
def predict(
    model: nn.Module, metadata: Mapping[str, Any], images: Sequence[str | Path], *, top: int = 5
) -> list[Prediction]:
    """Classify image files.

    Args:
        model: A network in eval mode, as `load_trained` returns it.
        metadata: Its metadata, which determines greyscale or colour, size and normalisation.
        images: The files; each is converted to the format that the network was trained on.
        top: Number of classes to return, at most all of them.

    Raises:
        DataError: A file is missing or is not an image.
    """
    mode: Mode = "L" if metadata["in_channels"] == 1 else "RGB"
    transform, names = input_transform(metadata), metadata["class_names"]
    predictions: list[Prediction] = []
    for start in range(0, len(images), _BATCH):
        paths = [Path(path).expanduser() for path in images[start : start + _BATCH]]
        batch = torch.stack([transform(open_image(path, mode)) for path in paths])
        most_likely = model(batch).float().softmax(1).topk(min(top, len(names)))
        for path, values, indices in zip(paths, *(t.tolist() for t in most_likely), strict=True):
            classes = tuple((names[index], value) for index, value in zip(indices, values, strict=True))
            predictions.append(Prediction(image=path, classes=classes))
    return predictions
