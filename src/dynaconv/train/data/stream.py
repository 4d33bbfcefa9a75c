"""Streams batches from shards: each image at most once per epoch over all processes, with equal steps in each.

The shards of an epoch are concatenated in an order that depends on seed and epoch. Each process reads a range of equal
length, and each of its workers an integral number of batches of it. A range may begin or end inside a shard, so the
number of images per shard does not matter. Images that do not fill a batch in every process are at the end of that
order and are left out; in another epoch they are others.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, default_collate, get_worker_info

from dynaconv.errors import CorruptImageError, DataError
from dynaconv.train.data.batches import Batch
from dynaconv.train.data.corrupt import CorruptImages
from dynaconv.train.data.image_file import Mode, decode_image, named_in_errors
from dynaconv.train.data.shards import Sample, ShardSet, describe, read_samples, sample_class, sample_image
from dynaconv.train.data.shares import PADDING
from dynaconv.train.stopping import start_loader_process

Wrap = Callable[[Any], Any]
Span = tuple[int, int, int]
"""A range of samples: number of the shard, first sample, and one past the last sample."""


def spans(counts: Sequence[int], order: Sequence[int], start: int, stop: int) -> list[Span]:
    """Return the ranges that make up the positions ``start`` to ``stop`` of the concatenated shards."""
    ranges: list[Span] = []
    position = 0
    for shard in order:
        first, last = max(start - position, 0), min(stop - position, counts[shard])
        if first < last:
            ranges.append((shard, first, last))
        position += counts[shard]
    return ranges


def shuffled(samples: Iterator[Sample], size: int, generator: random.Random) -> Iterator[Sample]:
    """Yield each sample once, shuffled by a buffer of ``size`` samples."""
    buffer = list(islice(samples, size))
    for sample in samples:
        index = generator.randrange(len(buffer))
        buffer[index], sample = sample, buffer[index]
        yield sample
    generator.shuffle(buffer)
    yield from buffer


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
        wrap: Wrap,
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
            wrap: Returns a map-style data set, such as `Photographs`, of decoded images and classes.
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
        if training:
            self.steps = used // (batch_size * world)
            self.share = self.steps * batch_size
            self.left_out = used - world * self.share
            if not self.steps:
                raise DataError(
                    f"an epoch of {used:,} images does not fill one batch of {batch_size} on each of {world} devices; "
                    f"lower data.batch_size."
                )
        else:
            self.share = -(-used // world)
            self.steps = -(-self.share // batch_size)
            self.left_out = 0
        self.begin = min(rank * self.share, used)
        self.end = min(self.begin + self.share, used)

    def __len__(self) -> int:
        return self.steps

    def order(self) -> list[int]:
        """Return the order of the shards in this epoch, which is the same in every process."""
        number = len(self.shards.files)
        if not self.training:
            return list(range(number))
        return random.Random(f"{self.seed} {self.epoch}").sample(range(number), number)

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
        parts = spans(self.shards.counts, self.order(), first, last)
        samples = (sample for part in parts for sample in read_samples(self.shards, *part))
        if self.training and self.buffer > 1:
            generator = random.Random(f"{self.seed} {self.epoch} {self.rank} {worker}/{workers}")
            return shuffled(samples, self.buffer, generator)
        return samples

    def _batch(self, samples: Sequence[Sample]) -> Batch:
        pairs = self._decoded(samples)
        numbers = [int(sample["__number__"]) for sample in samples]
        missing = self.batch_size - len(pairs)
        if not self.training and missing and self.world > 1:
            pairs += [(pairs[0][0] if pairs else Image.new(self.shards.mode, (32, 32)), PADDING)] * missing
            numbers += range(len(self.shards), len(self.shards) + missing)
        images = self.wrap(_Decoded(dict(zip(numbers, pairs, strict=True)), len(self.shards) + missing))
        if self.training and hasattr(images, "set_epoch"):
            images.set_epoch(self.seed, self.epoch)
        if hasattr(images, "__getitems__"):
            batch: Batch = images.__getitems__(numbers)
            return batch
        collated = default_collate([images[number] for number in numbers])
        return collated[0], collated[1]

    def _decoded(self, samples: Sequence[Sample]) -> list[tuple[Image.Image, int]]:
        """Decode a batch. The next valid image, or else the first, replaces a corrupt one that the run tolerates."""
        decoded: list[tuple[Image.Image, int] | None] = []
        for sample in samples:
            try:
                decoded.append(decode(sample, self.shards.mode, self.shards.label_key))
            except CorruptImageError as error:
                if self.corrupt is None:
                    raise
                self.corrupt.add(error)
                decoded.append(None)
        replacement = next((pair for pair in decoded if pair is not None), None)
        if replacement is None:
            if samples:
                raise DataError(
                    f"all images of a batch are corrupt, from {describe(samples[0])} on; pack the shards again."
                )
            return []
        filled = []
        for pair in reversed(decoded):
            replacement = pair or replacement
            filled.append(replacement)
        return filled[::-1]


class _Decoded:
    """The images of one batch by their numbers in the whole training set, which determine their augmentation."""

    def __init__(self, pairs: Mapping[int, tuple[Image.Image, int]], length: int) -> None:
        self.pairs = pairs
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> tuple[Image.Image, int]:
        return self.pairs[number]


def decode(sample: Sample, mode: Mode, label_key: str) -> tuple[Image.Image, int]:
    """Decode one sample.

    Raises:
        DataError: The sample has no image or class.
        CorruptImageError: The image is corrupt.
    """
    data, target = sample_image(sample), sample_class(sample, label_key)
    with named_in_errors(describe(sample), "pack the shards again"):
        return decode_image(data, mode), target


class StreamLoader(DataLoader[Any]):
    """A loader that sets the epoch of its stream and the seed of its workers before they start."""

    def __init__(self, stream: ShardStream, *, epoch: Callable[[], int], num_workers: int, pin_memory: bool) -> None:
        self._epoch = epoch
        super().__init__(
            stream,
            batch_size=None,
            num_workers=num_workers,
            worker_init_fn=start_loader_process,
            pin_memory=pin_memory,
            generator=torch.Generator(),
        )

    def __iter__(self) -> Any:
        stream = self.dataset
        assert isinstance(stream, ShardStream)
        assert self.generator is not None
        stream.epoch = self._epoch()
        self.generator.manual_seed(stream.seed + 7919 * stream.epoch + stream.rank)
        return super().__iter__()


def check_workers(shards: ShardSet, world: int, workers: int | None, most: int) -> int:
    """Return the number of loader processes per device for a training stream.

    Args:
        shards: The shards.
        world: Number of devices.
        workers: Number that the user has set; ``None`` for up to ``most``.
        most: Largest number if the user has set none.

    Raises:
        DataError: There are fewer shards than devices or requested workers, so that several would read one shard.
    """
    number = len(shards.files)
    if number < world:
        raise DataError(
            f"there are {number} training shards for {world} devices, fewer than one each; pack smaller shards with "
            f"`dynaconv shard --shard-size`."
        )
    if workers is None:
        return max(min(most, number // world), 1)
    if workers * world > number:
        raise DataError(
            f"there are {number} training shards for {world} x {workers} loader processes, fewer than one each; pass "
            f"--data.num_workers {number // world}, or pack smaller shards with `dynaconv shard --shard-size`."
        )
    return workers
