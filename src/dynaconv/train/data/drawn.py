"""Images that are drawn anew from a bank whenever they are asked for, so that no two of a run are the same."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from dynaconv.errors import DataError
from dynaconv.train.data.batches import Batch, SmallImages
from dynaconv.train.data.keyed import image_keys, scramble, uniform
from dynaconv.train.data.source import Source, TensorImages
from dynaconv.train.data.transforms import BatchTransform

Draw = Callable[[Tensor, Tensor], Tensor]
"""``uint8`` images ``(B, C, h, w)`` of the bank and ``int64`` keys ``(B,)`` to ``uint8`` pictures ``(B, C, H, W)``."""
# Keys of pictures that are the same in every run. A run's seed has 32 bits, so it draws other ones.
_DISTINCT, _VALIDATION, _TEST, _AS_EVALUATED = (2**32 + number for number in range(4))
_ITEM_STREAM = 0x5851F42D4C957F2D
_CHUNK = 1024


@dataclass(frozen=True, kw_only=True)
class DrawnImages:
    """Training images drawn from a bank: picture i of an epoch follows from the run's seed, the epoch and i alone.

    Picture i is of class i modulo the number of classes, so an epoch has as many of each. Which image of the bank it
    shows is drawn too.

    Attributes:
        bank: ``uint8``, ``(N, C, h, w)``, sorted by class.
        bank_targets: ``int64``, ``(N,)``, ascending; every class from 0 on has an image.
        draw: Makes pictures of them.
        length: Pictures an epoch takes.
        distinct: Where it is not ``None``, that many pictures are drawn, the same in every run, and come again and
            again.

    Raises:
        DataError: ``length`` or ``distinct`` is not positive.
    """

    bank: Tensor
    bank_targets: Tensor
    draw: Draw
    length: int
    distinct: int | None = None

    def __post_init__(self) -> None:
        if self.length < 1:
            raise DataError(f"data.epoch_size counts pictures, at least 1; got {self.length}.")
        if self.distinct is not None and self.distinct < 1:
            raise DataError(f"data.options.distinct counts pictures, at least 1; got {self.distinct}.")

    def __len__(self) -> int:
        return self.length

    @cached_property
    def targets(self) -> Tensor:
        """Class of each picture of an epoch, ``int64`` ``(length,)``; with ``distinct``, of the first epoch."""
        return self._classes(self._numbers(0, torch.arange(self.length)))

    def with_length(self, length: int) -> "DrawnImages":
        """Return the same with another number of pictures an epoch."""
        return replace(self, length=length)

    def pictures(self, seed: int, epoch: int, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Draw pictures of an epoch.

        Args:
            seed: The run's; ignored with ``distinct``.
            epoch: From 0.
            indices: Positions in the epoch, ``(B,)``.

        Returns:
            Pictures, ``uint8`` ``(B, C, H, W)``, and classes, ``int64`` ``(B,)``.
        """
        numbers = self._numbers(epoch, torch.as_tensor(indices, dtype=torch.int64))
        keys = image_keys(seed, epoch, numbers) if self.distinct is None else image_keys(_DISTINCT, 0, numbers)
        targets = self._classes(numbers)
        first, counts = self._classes_in_bank
        (random,) = uniform(keys ^ _ITEM_STREAM, 1)
        items = first[targets] + (random * counts[targets]).long()
        return self.draw(self.bank[items], keys), targets

    def _numbers(self, epoch: int, indices: Tensor) -> Tensor:
        return indices if self.distinct is None else (epoch * self.length + indices) % self.distinct

    def _classes(self, numbers: Tensor) -> Tensor:
        return numbers % len(self._classes_in_bank[1])

    @cached_property
    def _classes_in_bank(self) -> tuple[Tensor, Tensor]:
        """Where the images of each class begin, and how many there are."""
        counts = torch.bincount(self.bank_targets)
        return counts.cumsum(0) - counts, counts


class DrawnBatches(SmallImages):
    """Whole batches of a `DrawnImages`; without an epoch, the fixed pictures that an evaluation of them sees."""

    def __init__(self, split: DrawnImages, transform: BatchTransform, image_size: int) -> None:
        # Not resized as images in memory are: they are drawn at this size.
        self.split: Any = split
        self.transform = transform
        self.image_size = image_size

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        images, targets = self.split.pictures(*(self._seed_and_epoch or (_AS_EVALUATED, 0)), indices)
        keys = self._keys(indices)
        # Other numbers than the pictures were drawn from.
        return self.transform(images, None if keys is None else scramble(keys)), targets


def sorted_by_class(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Turn pictures of every class by every maker, a face or a voice, into a bank sorted by class.

    Args:
        pictures: ``uint8``, ``(makers, classes, h, w)``.

    Returns:
        ``uint8``, ``(makers * classes, 1, h, w)``, and classes, ``int64``.
    """
    makers, classes = pictures.shape[:2]
    targets = torch.arange(classes).repeat_interleave(makers)
    return pictures.transpose(0, 1).flatten(0, 1).unsqueeze(1).contiguous(), targets


def drawn_source(
    name: str,
    draw: Draw,
    *,
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    length: int,
    distinct: int | None,
    at_least: int = 2000,
    class_names: tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    image_size: int,
    note: str = "",
) -> Source:
    """A grey data set whose training pictures are drawn anew, and whose other pictures are drawn once.

    Args:
        name: The source's.
        draw: Makes pictures of the images of a bank.
        train, validation, test: Banks: images, ``uint8`` ``(N, 1, h, w)``, and classes, ``int64`` ``(N,)``; that of
            training is sorted by class.
        length, distinct: As for `DrawnImages`.
        at_least: As for `fixed_pictures`.
        class_names, mean, std, image_size, note: As for `Source`.
    """
    return Source(
        name=name,
        train=DrawnImages(bank=train[0], bank_targets=train[1], draw=draw, length=length, distinct=distinct),
        validation=fixed_pictures(*validation, draw, role="validation", at_least=at_least),
        test=fixed_pictures(*test, draw, role="test", at_least=at_least),
        class_names=class_names,
        channels=1,
        mean=mean,
        std=std,
        image_size=image_size,
        style="small",
        flip=False,
        note=note,
    )


def fixed_pictures(
    bank: Tensor, targets: Tensor, draw: Draw, *, role: Literal["validation", "test"], at_least: int = 2000
) -> TensorImages:
    """Draw each image of a bank equally often, with keys of the role's own: the same pictures in every run.

    Args:
        bank: ``uint8``, ``(N, C, h, w)``.
        targets: Their classes, ``int64`` ``(N,)``.
        draw: Makes pictures of them.
        role: What the pictures are for.
        at_least: Each image is drawn as often as it takes for so many pictures.
    """
    views = math.ceil(at_least / len(bank))
    seed = _VALIDATION if role == "validation" else _TEST
    parts = [
        draw(bank[start : start + _CHUNK], image_keys(seed, view, range(start, min(start + _CHUNK, len(bank)))))
        for view in range(views)
        for start in range(0, len(bank), _CHUNK)
    ]
    return TensorImages(images=torch.cat(parts), targets=targets.repeat(views))
