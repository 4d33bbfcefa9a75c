"""The interface of data sources: map-style sets of (image, class) pairs, and properties of the data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from PIL import Image
from torch import Tensor


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
    note: str = ""


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
