"""Divides an evaluation among processes: each image is evaluated once, in equally many batches per process."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import Dataset, Sampler, default_collate

from dynaconv.train.data.batches import Batch

PADDING = -1
"""Class of an image that only pads a batch; metrics ignore it."""


class EvaluationShare(Sampler[int]):
    """Samples every ``world``-th image from ``rank`` on, padded with `PADDING` to the same length in all processes.

    Under DDP every process takes part in each forward pass, so all processes need the same number of batches.
    """

    def __init__(self, length: int, *, world: int, rank: int) -> None:
        self.indices = list(range(rank, length, world))
        self.indices += [PADDING] * (-(-length // world) - len(self.indices))

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


class PaddedImages(Dataset[Any]):
    """Returns whole batches of another data set; the index `PADDING` gives its first image with the class `PADDING`."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        images, targets = self.__getitems__([index])
        return images[0], targets[0]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        real = [max(index, 0) for index in indices]
        if hasattr(self.inner, "__getitems__"):
            images, targets = self.inner.__getitems__(real)
        else:
            images, targets = default_collate([self.inner[index] for index in real])
        targets = targets.clone()
        targets[[index == PADDING for index in indices]] = PADDING
        return images, targets
