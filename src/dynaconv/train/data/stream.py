"""Batches streamed from shards: each image once an epoch over all processes and workers, and as many steps everywhere.

The shards of an epoch, in an order that seed and epoch decide, are laid end to end. Each process takes a stretch of
equal length, each of its workers a whole number of batches of that stretch. A stretch may begin or end inside a shard,
so nothing depends on how many images a shard holds. What does not fill a batch in every process stays at the end of
that order and is left out; in another epoch it is other images.
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
"""Number of a shard, and its first and one past its last sample."""


def spans(counts: Sequence[int], order: Sequence[int], start: int, stop: int) -> list[Span]:
    """Return which parts of which shards make the positions ``start`` to ``stop`` of the shards laid end to end."""
    found: list[Span] = []
    position = 0
    for shard in order:
        first, last = max(start - position, 0), min(stop - position, counts[shard])
        if first < last:
            found.append((shard, first, last))
        position += counts[shard]
    return found


def shuffled(samples: Iterator[Sample], size: int, generator: random.Random) -> Iterator[Sample]:
    """Give samples in random order, as far as a buffer of ``size`` of them reaches; each exactly once."""
    buffer = list(islice(samples, size))
    for sample in samples:
        place = generator.randrange(len(buffer))
        buffer[place], sample = sample, buffer[place]
        yield sample
    generator.shuffle(buffer)
    yield from buffer


class ShardStream(IterableDataset[Batch]):
    """Whole batches of a `ShardSet`, for one process.

    Attributes:
        epoch: Decides the order, with the seed; set before the workers start.
        corrupt: Counts the corrupt images of training, up to its limit; None refuses the first.
        start: Epoch, from 0, and how many batches of it are read past without being decoded.
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
            shards: Where the images are.
            wrap: Makes a map-style data set, such as `Photographs`, of decoded images and classes.
            batch_size: Images a batch.
            world, rank: Processes, and which of them this is.
            training: Shuffles and leaves the remainder out. Without it nothing is shuffled or left out, and processes
                that have fewer images fill their batches up with images of class `PADDING`.
            seed: Of the order.
            buffer: Encoded images that each worker mixes; 1 or less reads the shards in their own order.
            epoch_size: Images an epoch; by default all.

        Raises:
            DataError: The images do not make one batch for each process.
        """
        self.shards, self.wrap = shards, wrap
        self.batch_size, self.world, self.rank = batch_size, world, rank
        self.training, self.seed, self.buffer = training, seed, buffer
        self.epoch = 0
        self.start = (0, 0)
        self.corrupt: CorruptImages | None = None
        used = len(shards) if epoch_size is None else epoch_size
        if not 1 <= used <= len(shards):
            raise DataError(f"epoch_size={used} does not fit {len(shards):,} images in the shards.")
        if training:
            self.steps = used // (batch_size * world)
            self.share = self.steps * batch_size
            self.left_out = used - world * self.share
            if not self.steps:
                raise DataError(
                    f"an epoch of {used:,} images does not make one batch of {batch_size} on each of {world} devices; "
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
        """Return the shards in this epoch's order, the same in every process."""
        number = len(self.shards.files)
        if not self.training:
            return list(range(number))
        return random.Random(f"{self.seed} {self.epoch}").sample(range(number), number)

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        number, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        passed = self.start[1] if self.epoch == self.start[0] else 0
        # A loader turns to its first worker first, wherever in the epoch it starts.
        worker = (number + passed) % workers
        samples = self.samples(worker, workers)
        done = passed // workers + (worker < passed % workers)
        for _ in islice(samples, done * self.batch_size):
            pass
        for _ in range(self._batches(worker, workers) - done):
            yield self._batch(list(islice(samples, self.batch_size)))
        # Lets the reader notice a shard that goes on where it should end.
        next(samples, None)

    def _batches(self, worker: int, workers: int) -> int:
        """A loader takes one batch from each worker by turns, so the first ones make one more."""
        return self.steps // workers + (worker < self.steps % workers)

    def samples(self, worker: int, workers: int) -> Iterator[Sample]:
        """Read the samples of one of this process's ``workers``."""
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
        """Decode a batch; where the run allows a corrupt image, the next of the batch that is not stands for it."""
        found: list[tuple[Image.Image, int] | None] = []
        for sample in samples:
            try:
                found.append(decode(sample, self.shards.mode, self.shards.label_key))
            except CorruptImageError as error:
                if self.corrupt is None:
                    raise
                self.corrupt.add(error)
                found.append(None)
        standing = next((pair for pair in found if pair is not None), None)
        if standing is None:
            if samples:
                raise DataError(
                    f"every image of a batch is corrupt, from {describe(samples[0])} on; pack the shards again."
                )
            return []
        filled = []
        for pair in reversed(found):
            standing = pair or standing
            filled.append(standing)
        return filled[::-1]


class _Decoded:
    """The images of one batch under their numbers in the whole training set, from which their augmentation follows."""

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
        DataError: It has no image or class.
        CorruptImageError: The image is corrupt.
    """
    data, target = sample_image(sample), sample_class(sample, label_key)
    with named_in_errors(describe(sample), "pack the shards again"):
        return decode_image(data, mode), target


class StreamLoader(DataLoader[Any]):
    """A loader that tells its stream the epoch, and seeds its workers by it, before they start."""

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
    """Return how many loader processes a training stream takes on each device.

    Args:
        shards: Where the images are.
        world: Devices.
        workers: As the user said it; ``None`` for up to ``most``.
        most: Of a number that nobody chose.

    Raises:
        DataError: There are fewer shards than devices, or than the workers asked for: several would read one shard.
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
