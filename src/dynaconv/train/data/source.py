"""The interface of data sources: map-style sets of (image, class) pairs, and properties of the data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from PIL import Image
from torch import Tensor

from dynaconv.errors import DataError


class ImageSet(Protocol):
    """A map-style data set of (image, class index) pairs."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]: ...


@dataclass(frozen=True, kw_only=True)
class TensorImages:
    """Images held in memory.

    Attributes:
        images: ``uint8``, ``(N, C, H, W)``.
        targets: ``int64``, ``(N,)``.
    """

    images: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def subset(self, indices: Sequence[int]) -> "TensorImages":
        """Return the images at ``indices``."""
        rows = torch.as_tensor(indices, dtype=torch.long)
        return TensorImages(images=self.images[rows], targets=self.targets[rows])


Split = TensorImages | Any
"""`TensorImages`, an `ImageSet`, or an iterable data set of timm."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One data set: its splits and the properties that training needs.

    Attributes:
        name: Name of the data set, as it was given to `load_source`.
        train: Training images; part of it may be held out for validation.
        validation: Validation set that the source defines, else ``None``.
        test: Test images, which are never used to select anything.
        class_names: One name per class, in the order of the class indices.
        channels: 1 for greyscale, 3 for colour.
        mean, std: Mean and standard deviation of the pixel values in [0, 1], one per channel.
        image_size: Default side length of the network's input.
        style: Default augmentation: ``"small"`` (pad and crop) or ``"photo"`` (random resized crop).
        flip: Whether a mirrored image keeps its class.
        random_test: Whether the test set was drawn from all images with the seed of the split.
        note: Message for the user about how the data was read; usually empty.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    style: Literal["small", "photo"]
    flip: bool = True
    validation: Split | None = None
    random_test: bool = False
    note: str = ""


def photo_properties(channels: int | None, image_size: int | None) -> dict[str, Any]:
    """Return arguments of `Source` for files of photographs: ImageNet's mean and deviation, and 224 pixels by default.

    Args:
        channels: 1 for greyscale, 3 (or ``None``) for colour.
        image_size: Side length of the network's input; up to 64 pixels the images are augmented as small ones.
    """
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    size = image_size or 224
    return {
        "channels": 1 if channels == 1 else 3,
        "mean": (sum(mean) / 3,) if channels == 1 else mean,
        "std": (sum(std) / 3,) if channels == 1 else std,
        "image_size": size,
        "style": "small" if size <= 64 else "photo",
    }


def checked_class_names(found: Sequence[object] | None, classes: int | None, data: str) -> tuple[str, ...]:
    """Return the class names that a data set lists, or else "class 0", ...

    Args:
        found: Names that the data set lists, if any.
        classes: Number of classes that the user gave, if any.
        data: Description of the data set, for messages.

    Raises:
        DataError: The data set lists another number of classes, or neither it nor the user says how many there are.
    """
    if found:
        if classes not in (None, len(found)):
            raise DataError(f"data.classes={classes}, but {data} lists {len(found)} classes.")
        return tuple(map(str, found))
    if classes is None:
        raise DataError(f"{data} does not list its classes; pass data.classes, their number.")
    return tuple(f"class {number}" for number in range(classes))


def length_of(split: Any) -> int | None:
    """Return the number of images; ``None`` for a stream of unknown length or a missing split."""
    return len(split) if hasattr(split, "__len__") else None


def stratified_split(targets: Sequence[int] | Tensor, fraction: float, *, seed: int) -> tuple[list[int], list[int]]:
    """Split indices so that the second part has the same fraction of every class.

    Args:
        targets: Class of each example.
        fraction: Fraction of the second part, in (0, 1). A class with at least two examples has at least one in each
            part.
        seed: The same seed and targets give the same split on every machine.

    Returns:
        Sorted indices of the first and of the second part.
    """
    labels = torch.as_tensor(targets)
    generator = torch.Generator().manual_seed(seed)
    first: list[int] = []
    second: list[int] = []
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)].tolist()
        taken = min(max(round(len(members) * fraction), 1), len(members) - 1)
        second += members[:taken]
        first += members[taken:]
    return sorted(first), sorted(second)
