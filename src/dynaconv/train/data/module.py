"""The Lightning data module: a named image source, its augmentation, and its loaders."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from lightning.pytorch import LightningDataModule
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from dynaconv.errors import DataError, check_range, received
from dynaconv.families.contract.checks import check_choice
from dynaconv.train.data.augmentation import Augmentation, Photo, Small
from dynaconv.train.data.batches import EpochSampler, Photographs, SmallImages, make_loader
from dynaconv.train.data.corrupt import CorruptImages
from dynaconv.train.data.drawn import DrawnBatches, DrawnImages
from dynaconv.train.data.image_file import Mode, convert_image, named_in_errors
from dynaconv.train.data.shards import ShardSet
from dynaconv.train.data.shares import PaddedImages, evaluation_share
from dynaconv.train.data.source import Source, Split, TensorImages, length_of
from dynaconv.train.data.sources import load_source
from dynaconv.train.data.splits import hold_out, limit_images
from dynaconv.train.data.stream import ShardStream, StreamLoader, check_workers
from dynaconv.train.data.transforms import BatchTransform, SmallTransform, photo_transform

_MAX_AUTO_WORKERS = 8
MOST = 2**31 - 1
"""Largest count that an option of the data or the trainer takes."""


class ImageDataModule(LightningDataModule):
    """Loads images and their classes from any source as normalised batches.

    Attributes:
        num_classes, class_names, in_channels, image_size, mean, std: Properties of the data that a network needs.
        start: Epoch, from 0, that a resumed run starts in, and number of its batches that are done already.
        corrupt: The corrupt training images found so far.
    """

    def __init__(
        self,
        name: str,
        data_dir: str | None = None,
        classes: int | None = None,
        channels: int | None = None,
        image_size: int | None = None,
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        num_workers: int | None = None,
        val_fraction: float | None = None,
        test_fraction: float | None = None,
        split_seed: int | None = None,
        train_limit: int | None = None,
        epoch_size: int | None = None,
        shuffle_buffer: int | None = None,
        augment: Augmentation | None = None,
        crop_pct: float | None = None,
        interpolation: Literal["bilinear", "bicubic", "random"] | None = None,
        max_corrupt: int = 0,
        seed: int = 0,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Find and split the data. The images of a folder are opened later, one at a time.

        Args:
            name: "digits", "fashion-mnist", "glyphs", "glyphs-mini", "spoken-words", "fashion-mnist-hard", "folder"
                (with data_dir), a path to an image folder, or a timm data set name ("hfds/...", "wds/...",
                "torch/...", "tfds/...").
            data_dir: Folder of the data; "fashion-mnist" finds Debian's package without it. For "wds/..." also a URL,
                or a command "pipe:... {} ...".
            classes: Number of classes, for timm data sets that do not list them.
            channels: 1 reads images as greyscale, 3 as colour; by default the source decides.
            image_size: Side length of the network's input; by default the source decides.
            batch_size: Images per training step, on each device.
            eval_batch_size: Images per evaluation step; by default twice batch_size.
            num_workers: Number of loader processes; by default 0 for images in memory, else one per core, at most 8.
            val_fraction: Fraction of each class held out of the training set to select the best checkpoint, by default
                0.1. With 0 the run trains on all images and tests the last checkpoint. Of shards, whole ones are held
                out. Not for a data set that has validation images.
            test_fraction: Fraction held out of an image folder that has no test set, by default 0.2.
            split_seed: Seed of both splits and of train_limit, by default 0; independent of the run's seed, so that
                runs are comparable.
            train_limit: Train on only this many images, balanced over the classes as far as possible.
            epoch_size: Images per epoch, for the shards of "wds/..." (by default all) or a data set whose images are
                drawn anew.
            shuffle_buffer: Encoded images that each loader process shuffles while it reads shards, by default 2,000.
            augment: Small pads and crops, Photo is timm's ImageNet pipeline, Off only normalises. By default the
                source decides.
            crop_pct: Fraction of the side that the centre crop of evaluation keeps, in (0, 1]; by default 0.875. For
                photographs only.
            interpolation: Interpolation of the resizing; by default "bicubic". "random" draws one for each training
                image. For photographs only.
            max_corrupt: Number of corrupt training images that are tolerated; the next one in the data set replaces
                each. One more ends the run.
            seed: Seed of the order of the training images and of their augmentation; the run's seed.
            options: Options of a data set whose images are drawn anew ("glyphs" and others, see docs/drawn-data.md).
        """
        super().__init__()
        for option, value, least, most in (
            ("num_workers", num_workers, 0, 1024),
            ("max_corrupt", max_corrupt, 0, MOST),
            ("batch_size", batch_size, 1, MOST),
            ("eval_batch_size", eval_batch_size, 1, MOST),
            ("shuffle_buffer", shuffle_buffer, 1, MOST),
            ("epoch_size", epoch_size, 1, MOST),
            ("train_limit", train_limit, 1, MOST),
            ("image_size", image_size, 4, 2**16),
            ("classes", classes, 1, 10**6),
            ("split_seed", split_seed, 0, 2**32 - 1),
        ):
            if value is not None:
                check_range(f"data.{option}", value, least, error=DataError)
                if value > most:
                    raise DataError(f"data.{option} must be at most {most:,}; got {received(value)}.")
        check_choice("data.channels", channels, (None, 1, 3), error=DataError)
        if val_fraction is not None:
            check_range("data.val_fraction", val_fraction, 0, 1, open_high=True, error=DataError)
        source = load_source(
            name,
            data_dir=data_dir,
            classes=classes,
            channels=channels,
            image_size=image_size,
            test_fraction=test_fraction,
            split_seed=split_seed or 0,
            options=options,
        )
        self.source = source
        self.name = name
        self.num_classes = len(source.class_names)
        self.class_names = source.class_names
        self.in_channels = source.channels
        self.image_size = image_size or source.image_size
        self.mean, self.std = source.mean, source.std
        if augment is None:
            augment = Photo() if source.style == "photo" else Small()
        self.augment = augment
        self.style = augment.style or source.style
        self._check_photo_only(crop_pct=crop_pct, interpolation=interpolation)
        self.crop_pct, self.interpolation = crop_pct or 0.875, interpolation or "bicubic"
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or 2 * batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.start = (0, 0)
        self.corrupt = CorruptImages(max_corrupt)
        _refuse_unused(
            source,
            val_fraction=val_fraction,
            split_seed=split_seed,
            train_limit=train_limit,
            shuffle_buffer=shuffle_buffer,
            max_corrupt=max_corrupt or None,
        )
        fraction = 0.1 if val_fraction is None else val_fraction
        self.train_split, self.val_split = hold_out(source.train, source.validation, fraction, split_seed or 0)
        if train_limit is not None:
            self.train_split = limit_images(self.train_split, train_limit, split_seed or 0)
        if isinstance(self.train_split, DrawnImages) and not isinstance(augment, Small):
            raise DataError(
                f"data.augment={type(augment).__name__} cannot be used with {name}, whose images are drawn "
                f"anew; leave it out."
            )
        if epoch_size is not None and isinstance(self.train_split, DrawnImages):
            self.train_split = self.train_split.with_length(epoch_size)
        elif epoch_size is not None and not isinstance(self.train_split, ShardSet):
            raise DataError(f"epoch_size={epoch_size} is for shards (wds/...); use train_limit with {name}.")
        self.epoch_size, self.shuffle_buffer = epoch_size, shuffle_buffer or 2000
        # Drawn pictures are shifted at random already.
        border = 0 if isinstance(self.train_split, DrawnImages) else self.image_size // 8
        self._small_options = augment.batch_options(border, source.flip)
        self._photo_options = augment.timm_options(source.flip) if isinstance(augment, Photo) else None
        if self.style == "photo":
            self._check_photo_options()

    def _check_photo_only(self, *, crop_pct: float | None, interpolation: str | None) -> None:
        for name, value in (("crop_pct", crop_pct), ("interpolation", interpolation)):
            if value is not None and self.style == "small":
                raise DataError(f"data.{name} is for photographs, but {self.name} has small images; leave it out.")
        if crop_pct is not None:
            check_range("data.crop_pct", crop_pct, 0, 1, open_low=True, error=DataError)

    def _check_photo_options(self) -> None:
        """Build the pipeline once, so that an unknown policy raises an error before the run starts."""
        try:
            self._photo_transform(training=True)
        # timm's policies raise these from assertions and look-ups.
        except (AssertionError, KeyError, ValueError, TypeError) as error:
            reason = str(error) or type(error).__name__
            raise DataError(f"timm does not accept data.augment={self.augment}: {reason}") from error

    @property
    def has_validation(self) -> bool:
        """Whether there are validation images to select the best checkpoint by."""
        return self.val_split is not None

    def eval_dataset(self, split: Split) -> Any:
        """Return the data set of a split for evaluation: resized and normalised, with nothing random."""
        return self._dataset(split, training=False)

    def train_dataloader(self) -> DataLoader[Any]:
        if isinstance(self.train_split, ShardSet):
            return self._stream_loader(self.train_split, training=True)
        dataset = self._dataset(self.train_split, training=True)
        options = {"batch_size": self.batch_size, "num_workers": self._workers(dataset)}
        if isinstance(dataset, IterableDataset):
            return make_loader(dataset, drop_last=True, **options)
        world, rank = self._world_and_rank()
        drop_last = self._fills_a_batch(len(dataset), world)
        sampler = EpochSampler(dataset, num_replicas=world, rank=rank, seed=self.seed, drop_last=drop_last)
        sampler.start = (self.start[0], self.start[1] * self.batch_size)
        sampler.set_epoch(self._epoch())
        dataset.corrupt = self.corrupt
        return make_loader(dataset, sampler=sampler, drop_last=drop_last, **options)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        if self.val_split is None:
            return []
        return self.eval_loader(self.val_split)

    def test_dataloader(self) -> DataLoader[Any]:
        return self.eval_loader(self.source.test)

    def eval_loader(self, split: Split) -> DataLoader[Any]:
        """Return a loader over all images of ``split`` in their own order."""
        if isinstance(split, ShardSet):
            return self._stream_loader(split, training=False)
        dataset = self.eval_dataset(split)
        options = {"batch_size": self.eval_batch_size, "num_workers": self._workers(dataset)}
        world, rank = self._world_and_rank()
        if world == 1 or isinstance(dataset, IterableDataset):
            return make_loader(dataset, **options)
        share = evaluation_share(len(dataset), world=world, rank=rank)
        return make_loader(PaddedImages(dataset), sampler=share, **options)

    def _world_and_rank(self) -> tuple[int, int]:
        """Return the number of processes and the rank of this one."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)

    def check_scale(self, processes: int) -> None:
        """Raise an error, before other processes start, if there are too few shards or images for ``processes``."""
        if isinstance(self.train_split, ShardSet):
            self._stream(self.train_split, training=True, world=processes, rank=0)
            self.shard_readers(processes)

    def shard_readers(self, processes: int) -> int | None:
        """Return how many processes of each device read shards, on which the order of the images depends, or None."""
        if not isinstance(self.train_split, ShardSet):
            return None
        return max(self._stream_workers(self.train_split, training=True, world=processes), 1)

    def left_out(self, processes: int) -> int:
        """Return the number of training images that each epoch leaves out, as they do not fill a batch everywhere."""
        length = self.epoch_size or length_of(self.train_split) or 0
        return length % (processes * self.batch_size) if self._fills_a_batch(length, processes) else 0

    def smallest_batch(self, processes: int) -> int:
        """Return the number of images per device in the smallest training step on ``processes`` devices."""
        length = length_of(self.train_split)
        if not length or self._fills_a_batch(length, processes):
            return self.batch_size
        return -(-length // processes)

    def _fills_a_batch(self, length: int, processes: int) -> bool:
        """Return whether the images fill a batch on each device. Fewer form one smaller batch, and none is left out."""
        return length // processes >= self.batch_size

    def _stream_loader(self, shards: ShardSet, *, training: bool) -> StreamLoader:
        world, rank = self._world_and_rank()
        stream = self._stream(shards, training=training, world=world, rank=rank)
        if training:
            stream.start, stream.corrupt = self.start, self.corrupt
        workers = self._stream_workers(shards, training=training, world=world)
        return StreamLoader(stream, num_workers=workers, epoch=self._epoch)

    def _stream_workers(self, shards: ShardSet, *, training: bool, world: int) -> int:
        max_workers = min(os.cpu_count() or 1, _MAX_AUTO_WORKERS)
        if training:
            return check_workers(shards, world, self.num_workers, max_workers)
        # If several workers read one shard, each of them reads past the samples of the others.
        return min(max_workers if self.num_workers is None else self.num_workers, len(shards.files))

    def _stream(self, shards: ShardSet, *, training: bool, world: int, rank: int) -> ShardStream:
        return ShardStream(
            shards,
            partial(self._dataset, training=training),
            batch_size=self.batch_size if training else self.eval_batch_size,
            world=world,
            rank=rank,
            training=training,
            seed=self.seed,
            buffer=self.shuffle_buffer,
            epoch_size=self.epoch_size if training else None,
        )

    def _epoch(self) -> int:
        # In a resumed run, Lightning starts the workers of the first epoch before it restores the epoch's number.
        return max(self.trainer.current_epoch if self.trainer is not None else 0, self.start[0])

    def _dataset(self, split: Split, *, training: bool) -> Any:
        options = self._small_options if training else {}
        small = BatchTransform(mean=self.mean, std=self.std, **options)
        if isinstance(split, IterableDataset):
            each: Callable[[Image.Image], Tensor] = SmallTransform(transform=small, image_size=self.image_size)
            if self.style != "small":
                each = self._photo_transform(training=training)
            streamed: Any = split
            streamed.transform = partial(_convert, mode="L" if self.in_channels == 1 else "RGB", transform=each)
            return streamed
        if isinstance(split, DrawnImages):
            return DrawnBatches(split, small, self.image_size)
        if self.style == "small":
            return SmallImages(split, small, self.image_size)
        return Photographs(split, self._photo_transform(training=training))

    def _photo_transform(self, *, training: bool) -> Callable[[Image.Image], Tensor]:
        return photo_transform(
            training=training and self._photo_options is not None,
            image_size=self.image_size,
            mean=self.mean,
            std=self.std,
            crop_pct=self.crop_pct,
            interpolation=self.interpolation,
            options=self._photo_options or {},
        )

    def _workers(self, dataset: Any) -> int:
        if self.num_workers is not None:
            return self.num_workers
        in_memory = isinstance(dataset, SmallImages) and isinstance(dataset.split, TensorImages | DrawnImages)
        return 0 if in_memory else min(os.cpu_count() or 1, _MAX_AUTO_WORKERS)


def _refuse_unused(source: Source, **given: Any) -> None:
    """Raise `DataError` for an option that would have no effect on a data set; None stands for an option left out."""
    in_memory = isinstance(source.train, TensorImages | DrawnImages)
    holds_out = source.validation is None and given["val_fraction"] != 0
    reasons = {
        "val_fraction": source.validation is not None and "has validation images",
        "split_seed": not (source.random_test or holds_out or given["train_limit"]) and "is not split at random",
        "shuffle_buffer": not isinstance(source.train, ShardSet) and "does not consist of shards",
        "max_corrupt": in_memory and "has no image files",
    }
    for name, reason in reasons.items():
        if reason and given[name] is not None:
            raise DataError(f"{source.name} {reason}, so data.{name} has no effect; leave it out.")


def _convert(image: Image.Image, mode: Mode, transform: Callable[[Image.Image], Tensor]) -> Tensor:
    with named_in_errors("an image of the stream", "repair the data set"):
        return transform(convert_image(image, mode))
