"""Images that are drawn anew from a bank at each access, so that a run never uses the same one twice."""

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
"""Draws ``uint8`` pictures ``(B, C, H, W)`` of ``uint8`` bank images ``(B, C, h, w)`` by ``int64`` keys ``(B,)``."""
# Seeds of pictures that are the same in every run. The seed of a run has 32 bits, so it cannot be one of these.
_DISTINCT, _VALIDATION, _TEST, _AS_EVALUATED = (2**32 + number for number in range(4))
_ITEM_STREAM = 0x5851F42D4C957F2D
_CHUNK = 1024


@dataclass(frozen=True, kw_only=True)
class DrawnImages:
    """Training images drawn from a bank. Picture i of an epoch depends only on the run's seed, the epoch and i.

    Picture i has the class i modulo the number of classes, so the classes of an epoch are balanced. The image of the
    bank that it shows is drawn at random.

    Attributes:
        bank: ``uint8``, ``(N, C, h, w)``, sorted by class.
        bank_targets: ``int64``, ``(N,)``, ascending; every class from 0 on has an image.
        draw: Draws pictures of images of the bank.
        length: Pictures per epoch.
        distinct: If not ``None``, only that many different pictures are drawn, the same in every run, repeatedly.

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
            raise DataError(f"data.epoch_size must be at least 1 picture; got {self.length}.")
        if self.distinct is not None and self.distinct < 1:
            raise DataError(f"data.options.distinct must be at least 1 picture; got {self.distinct}.")

    def __len__(self) -> int:
        return self.length

    @cached_property
    def targets(self) -> Tensor:
        """Class of each picture of an epoch, ``int64`` ``(length,)``; with ``distinct``, of the first epoch."""
        return self._classes(self._numbers(0, torch.arange(self.length)))

    def with_length(self, length: int) -> "DrawnImages":
        """Return a copy with another number of pictures per epoch."""
        return replace(self, length=length)

    def pictures(self, seed: int, epoch: int, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Draw pictures of an epoch.

        Args:
            seed: The run's seed; ignored with ``distinct``.
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

    def subset(self, indices: Sequence[int]) -> TensorImages:
        """Return the pictures at ``indices`` that an evaluation of the training data sees."""
        parts = [self.pictures(_AS_EVALUATED, 0, indices[at : at + _CHUNK]) for at in range(0, len(indices), _CHUNK)]
        images, targets = zip(*parts, strict=True)
        return TensorImages(images=torch.cat(images), targets=torch.cat(targets))

    def _numbers(self, epoch: int, indices: Tensor) -> Tensor:
        return indices if self.distinct is None else (epoch * self.length + indices) % self.distinct

    def _classes(self, numbers: Tensor) -> Tensor:
        return numbers % len(self._classes_in_bank[1])

    @cached_property
    def _classes_in_bank(self) -> tuple[Tensor, Tensor]:
        """Return the index of the first image of each class, and the number of its images."""
        counts = torch.bincount(self.bank_targets)
        return counts.cumsum(0) - counts, counts


class DrawnBatches(SmallImages):
    """Returns whole batches of a `DrawnImages`; if no epoch is set, the fixed pictures for an evaluation of them."""

    def __init__(self, split: DrawnImages, transform: BatchTransform, image_size: int) -> None:
        # Does not call the base class, which resizes images in memory: these are drawn at the right size.
        self.split: Any = split
        self.transform = transform
        self.image_size = image_size

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        images, targets = self.split.pictures(*(self._seed_and_epoch or (_AS_EVALUATED, 0)), indices)
        keys = self._keys(indices)
        # Keys other than those that the pictures were drawn with.
        return self.transform(images, None if keys is None else scramble(keys)), targets


def sorted_by_class(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Turn pictures of every class in every face or voice into a bank sorted by class.

    Args:
        pictures: ``uint8``, ``(styles, classes, h, w)``; a style is a face or a voice.

    Returns:
        ``uint8``, ``(styles * classes, 1, h, w)``, and classes, ``int64``.
    """
    styles, classes = pictures.shape[:2]
    targets = torch.arange(classes).repeat_interleave(styles)
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
    """Return a greyscale data set whose training pictures are drawn anew, and whose other pictures are drawn once.

    Args:
        name: Name of the source.
        draw: Draws pictures of images of a bank.
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
    """Draw each image of a bank equally often. The keys depend only on the role, so all runs have the same pictures.

    Args:
        bank: ``uint8``, ``(N, C, h, w)``.
        targets: Their classes, ``int64`` ``(N,)``.
        draw: Draws pictures of images of the bank.
        role: Split that the pictures are for.
        at_least: Smallest number of pictures; each image is drawn ceil(at_least / N) times.
    """
    views = math.ceil(at_least / len(bank))
    seed = _VALIDATION if role == "validation" else _TEST
    parts = [
        draw(bank[start : start + _CHUNK], image_keys(seed, view, range(start, min(start + _CHUNK, len(bank)))))
        for view in range(views)
        for start in range(0, len(bank), _CHUNK)
    ]
    return TensorImages(images=torch.cat(parts), targets=targets.repeat(views))
