"""Divides training images into a part to train on and a part to validate on, and limits their number."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch.utils.data import IterableDataset, Subset

from dynaconv.errors import DataError
from dynaconv.train.data.drawn import DrawnImages
from dynaconv.train.data.shard_source import hold_out_shards
from dynaconv.train.data.shards import ShardSet
from dynaconv.train.data.source import Split, stratified_split


def _targets(split: Split) -> Any:
    targets = getattr(split, "targets", None)
    if targets is None:
        inner = getattr(split, "dataset", None)
        samples = getattr(getattr(inner, "reader", None), "samples", None)
        if samples is not None:
            return [int(sample[1]) for sample in samples]
        targets = getattr(getattr(inner, "reader", None) or inner, "targets", None)
        targets = getattr(getattr(inner, "dataset", None), "targets", None) if targets is None else targets
    return targets


def subset_of(split: Split, indices: Sequence[int]) -> Split:
    """Return the images at ``indices``."""
    if hasattr(split, "subset"):
        return split.subset(indices)
    return Subset(cast(Any, split), indices)


def hold_out(train: Split, validation: Split | None, fraction: float, seed: int) -> tuple[Split, Split | None]:
    """Return training and validation images; a validation set that the source defines is used as it is."""
    if validation is not None or fraction == 0:
        return train, validation
    if isinstance(train, ShardSet):
        return hold_out_shards(train, fraction, seed)
    if isinstance(train, IterableDataset):
        raise DataError("a streamed data set cannot be split; pass val_fraction=0, or use one with a validation set.")
    return _split(train, fraction, seed)


def _split(train: Split, fraction: float, seed: int) -> tuple[Split, Split | None]:
    targets = _targets(train)
    if targets is None:
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
        taken = max(round(len(order) * fraction), 1)
        first, second = sorted(order[taken:]), sorted(order[:taken])
    else:
        first, second = stratified_split(targets, fraction, seed=seed)
    if not first or not second:
        raise DataError(
            f"val_fraction={fraction} does not divide {len(train)} training images into two sets; "
            f"pass val_fraction=0 or add images."
        )
    return subset_of(train, first), subset_of(train, second)


def limit_images(train: Split, limit: int, seed: int) -> Split:
    if isinstance(train, DrawnImages):
        raise DataError(
            f"train_limit={limit} cannot be used with images that are drawn anew; use data.options.distinct."
        )
    if isinstance(train, ShardSet):
        raise DataError(f"train_limit={limit} cannot be used with shards; use data.epoch_size.")
    if isinstance(train, IterableDataset):
        raise DataError(
            f"train_limit={limit} cannot be used with a streamed data set; use trainer.limit_train_batches."
        )
    if not 1 <= limit <= len(train):
        raise DataError(f"train_limit={limit} must be from 1 to {len(train)}, the number of training images.")
    targets = _targets(train)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
    if targets is not None:
        # The first image of every class, then the second of every class, and so on.
        counts: Counter[int] = Counter()
        ranks: dict[int, int] = {}
        for index in order:
            label = int(targets[index])
            ranks[index] = counts[label]
            counts[label] += 1
        order.sort(key=ranks.__getitem__)
    return subset_of(train, sorted(order[:limit]))
