"""What every data source gives: map-style sets of (image, class), and what is known about them."""

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
    """One data set: its splits and what training needs to know about it.

    Attributes:
        name: The name it was asked for by.
        train: Training images; part of it may be held out for validation.
        validation: A validation set the source itself defines, else ``None``.
        test: Held-out images, never used to choose anything.
        class_names: One name a class, in the order of the class indices.
        channels: 1 for greyscale, 3 for colour.
        mean, std: Of the pixel values in [0, 1], one a channel.
        image_size: Side length that suits the source.
        style: Which augmentation suits: ``"small"`` (pad and crop) or ``"photo"`` (random resized crop).
        flip: Whether a mirrored image keeps its class.
        note: What a user should hear about how the data was understood; mostly nothing.
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
    """Number of images; ``None`` for a stream that does not tell, and where there is no such split."""
    return len(split) if hasattr(split, "__len__") else None


def stratified_split(targets: Sequence[int] | Tensor, fraction: float, *, seed: int) -> tuple[list[int], list[int]]:
    """Split indices so that every class gives the same share to the second part.

    Args:
        targets: Class of each example.
        fraction: Share of the second part, in (0, 1). A class with at least two examples gives at least one and
            keeps at least one.
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
