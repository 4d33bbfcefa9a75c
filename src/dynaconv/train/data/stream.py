"""Streams batches from shards: each image at most once per epoch over all processes, with equal steps in each.

The shards of an epoch are concatenated in an order that depends on seed and epoch. Each process reads a range of equal
length, and each of its workers an integral number of batches of it. A range may begin or end inside a shard, so the
number of images per shard does not matter. Images that do not fill a batch in every process are at the end of that
order and are left out; in another epoch they are others.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from dynaconv.errors import CorruptImageError, DataError
from dynaconv.train.data.batches import Batch, collated, loader_options
from dynaconv.train.data.corrupt import CorruptImages
from dynaconv.train.data.image_file import decode_image, named_in_errors
from dynaconv.train.data.shards import Sample, ShardSet, describe, read_range, sample_class, sample_image
from dynaconv.train.data.shares import PADDING


class ShardStream(IterableDataset[Batch]):
    """Yields whole batches of a `ShardSet`, for one process.

    Attributes:
        epoch: Determines the order, with the seed; set it before the workers start.
        corrupt: Counts the corrupt training images up to its limit; with None the first one is an error.
        start: Epoch, from 0, and number of its batches that are skipped without being decoded.
    """

    def __init__(
        self,
        shards: ShardSet,
        wrap: Callable[[Any], Any],
        *,
        batch_size: int,
        world: int,
        rank: int,
        training: bool,
        seed: int = 0,
        buffer: int = 0,
        epoch_size: int | None = None,
    ) -> None:
        """Plan an epoch.

        Args:
            shards: The shards.
            wrap: Returns a map-style data set, such as `Photographs`, of the images and classes of one batch.
            batch_size: Images per batch.
            world, rank: Number of processes, and rank of this one.
            training: Shuffle, and leave out the images that do not fill a batch. Without it nothing is shuffled or left
                out, and processes with fewer images pad their batches with images of class `PADDING`.
            seed: Seed of the order.
            buffer: Number of encoded images that each worker shuffles; with 1 or less it reads shards in their order.
            epoch_size: Images per epoch; by default all.

        Raises:
            DataError: The images do not fill one batch for each process, or there are fewer than ``epoch_size``.
        """
        self.shards, self.wrap = shards, wrap
        self.batch_size, self.world, self.rank = batch_size, world, rank
        self.training, self.seed, self.buffer = training, seed, buffer
        self.epoch = 0
        self.start = (0, 0)
        self.corrupt: CorruptImages | None = None
        used = len(shards) if epoch_size is None else epoch_size
        if not 1 <= used <= len(shards):
            raise DataError(f"epoch_size={used} must be from 1 to {len(shards):,}, the number of images in the shards.")
        share = -(-used // world)
        self.steps = -(-share // batch_size)
        if training:
            self.steps = used // (batch_size * world)
            share = self.steps * batch_size
            if not self.steps:
                raise DataError(
                    f"an epoch of {used:,} images does not fill one batch of {batch_size} on each of {world} devices; "
                    f"lower data.batch_size."
                )
        self.begin, self.end = (min(edge * share, used) for edge in (rank, rank + 1))

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        number, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        skipped = self.start[1] if self.epoch == self.start[0] else 0
        # A loader takes its first batch from its first worker, wherever in the epoch it starts.
        worker = (number + skipped) % workers
        samples = self.samples(worker, workers)
        done = skipped // workers + (worker < skipped % workers)
        for _ in islice(samples, done * self.batch_size):
            pass
        for _ in range(self._batches(worker, workers) - done):
            yield self._batch(list(islice(samples, self.batch_size)))
        # Makes the reader check that the last shard ends where it should.
        next(samples, None)

    def _batches(self, worker: int, workers: int) -> int:
        """Return a worker's number of batches. The workers take turns, so the first ones may have one more."""
        return self.steps // workers + (worker < self.steps % workers)

    def samples(self, worker: int, workers: int) -> Iterator[Sample]:
        """Return the samples of a worker of this process, which has ``workers`` of them."""
        first = self.begin + self.batch_size * sum(self._batches(before, workers) for before in range(worker))
        last = min(first + self.batch_size * self._batches(worker, workers), self.end)
        order = list(range(len(self.shards.files)))
        if self.training:
            random.Random(f"{self.seed} {self.epoch}").shuffle(order)
        samples = read_range(self.shards, order, first, last)
        if self.training and self.buffer > 1:
            from webdataset.filters import shuffle

            generator = random.Random(f"{self.seed} {self.epoch} {self.rank} {worker}/{workers}")
            samples = shuffle(self.buffer, initial=self.buffer, rng=generator)(samples)
        return samples

    def _batch(self, samples: Sequence[Sample]) -> Batch:
        padded = self.batch_size if self.world > 1 and not self.training else len(samples)
        images = self.wrap(_Decoded(samples, padded, self.shards))
        images.corrupt = self.corrupt
        if self.training:
            images.set_epoch(self.seed, self.epoch, [sample["__number__"] for sample in samples])
        return collated(images, range(padded))


class _Decoded:
    """The images of one batch and their classes, and blank images of the class `PADDING` up to a length.

    All are decoded before the first one is augmented, which is faster than to alternate.
    """

    def __init__(self, samples: Sequence[Sample], length: int, shards: ShardSet) -> None:
        self.pairs = [_decode(sample, shards) for sample in samples]
        self.pairs += [(Image.new(shards.mode, (32, 32)), PADDING)] * (length - len(samples))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        pair = self.pairs[index]
        if isinstance(pair, CorruptImageError):
            raise pair
        return pair


def _decode(sample: Sample, shards: ShardSet) -> tuple[Image.Image, int] | CorruptImageError:
    data, target = sample_image(sample), sample_class(sample, shards.label_key)
    try:
        with named_in_errors(partial(describe, sample), "pack the shards again"):
            return decode_image(data, shards.mode), target
    except CorruptImageError as error:
        return error


class StreamLoader(DataLoader[Any]):
    """A loader that sets the epoch of its `ShardStream` before the workers start."""

    def __init__(self, stream: ShardStream, *, num_workers: int, epoch: Callable[[], int]) -> None:
        self._epoch = epoch
        options = {**loader_options(), "generator": torch.Generator()}
        super().__init__(stream, batch_size=None, num_workers=num_workers, **options)

    def __iter__(self) -> Any:
        stream: Any = self.dataset
        stream.epoch = self._epoch()
        return super().__iter__()


def check_workers(shards: ShardSet, world: int, workers: int | None, most: int) -> int:
    """Return the number of loader processes per device for a training stream.

    Args:
        shards: The shards.
        world: Number of devices.
        workers: Number that the user has set; ``None`` for up to ``most``.
        most: Largest number if the user has set none, at least 1.

    Raises:
        DataError: There are fewer shards than devices or requested workers, so that several would read one shard.
    """
    each = len(shards.files) // world
    if each < (workers or 1):
        fewer = f"pass --data.num_workers {each}, or " if each else ""
        raise DataError(
            f"there are {len(shards.files)} training shards for {world} devices x {workers or 1} loader processes, "
            f"fewer than one each; {fewer}pack smaller shards with `dynaconv shard --shard-size`."
        )
    return min(most, each) if workers is None else workers
