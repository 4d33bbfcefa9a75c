"""Divides an evaluation among processes: each image is evaluated once, in equally many batches per process."""

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from dynaconv.train.data.batches import Batch, collated

PADDING = -1
"""Class of an image that only pads a batch; metrics ignore it."""


def evaluation_share(length: int, *, world: int, rank: int) -> list[int]:
    """Return every ``world``-th index from ``rank`` on, padded with `PADDING` to the same length in all processes.

    Under DDP every process takes part in each forward pass, so all processes need the same number of batches.
    """
    share = list(range(rank, length, world))
    return share + [PADDING] * (-(-length // world) - len(share))


class PaddedImages(Dataset[Any]):
    """Returns whole batches of another data set; the index `PADDING` gives its first image with the class `PADDING`."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        images, targets = collated(self.inner, [max(index, 0) for index in indices])
        targets = targets.clone()
        targets[[index == PADDING for index in indices]] = PADDING
        return images, targets
