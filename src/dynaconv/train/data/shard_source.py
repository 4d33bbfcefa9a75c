"""The data source ``wds/...``: tar shards with an index in the same folder."""

import random

from dynaconv.errors import DataError
from dynaconv.train.data.image_file import Mode
from dynaconv.train.data.shards import ShardSet, read_index, shards_of
from dynaconv.train.data.source import Source, checked_class_names, photo_properties


def shard_source(
    name: str, location: str, *, classes: int | None, channels: int | None, image_size: int | None
) -> Source:
    """Return the data set that the index at ``location`` describes.

    The split "train" is for training. The split "test", or else "validation", is the test set.

    Args:
        name: Name of the source.
        location: Folder, URL, or a command ``pipe:...{}...``.
        classes: Number of classes, needed if the index does not list them.
        channels: 1 for greyscale, 3 (or ``None``) for colour.
        image_size: Side length of the network's input.

    Raises:
        DataError: There is no index, it contradicts itself, or a shard on disk is missing.
    """
    index = read_index(location)
    mode: Mode = "L" if channels == 1 else "RGB"
    held_out = [split for split in ("test", "validation") if split in index["splits"]]
    if not held_out:
        raise DataError(f"the shards at {location} have neither a split 'test' nor 'validation' to test on.")
    train, test = (shards_of(index, split, location, mode) for split in ("train", held_out[0]))
    names = index.get("classes")
    return Source(
        name=name,
        train=train,
        test=test,
        validation=shards_of(index, held_out[1], location, mode) if len(held_out) > 1 else None,
        class_names=checked_class_names(
            names if isinstance(names, list) else None, classes, f"the index at {location}"
        ),
        **photo_properties(channels, image_size),
        note="" if held_out[0] == "test" else f"{location} has no split test: validation is the test set.",
    )


def hold_out_shards(shards: ShardSet, fraction: float, seed: int) -> tuple[ShardSet, ShardSet]:
    """Divide shards at random into two sets, the second with about a ``fraction`` of the images.

    Raises:
        DataError: The images were not shuffled before they were packed, or there is only one shard.
    """
    if not shards.shuffled:
        raise DataError(
            "the index of the shards does not say that the images were shuffled, so none can be held out; pass "
            "--data.val_fraction 0, or pack the images with `dynaconv shard`."
        )
    number = len(shards.files)
    if number < 2:
        raise DataError(
            f"val_fraction={fraction} cannot be held out of one shard; pass --data.val_fraction 0, or pack smaller "
            f"shards with `dynaconv shard --shard-size`."
        )
    order = random.Random(seed).sample(range(number), number)
    held: list[int] = []
    while not held or (sum(shards.counts[i] for i in held) < fraction * len(shards) and len(held) < number - 1):
        held.append(order[len(held)])
    return shards.take(sorted(set(order) - set(held))), shards.take(sorted(held))
