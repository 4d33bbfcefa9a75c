"""The Lightning data module: a named image source, its augmentation, and its loaders."""

import os
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from dynaconv.errors import DataError
from dynaconv.train.data.batches import EpochSampler, Photographs, SmallImages, already_collated, make_loader
from dynaconv.train.data.corrupt import CorruptImages
from dynaconv.train.data.drawn import DrawnBatches, DrawnImages
from dynaconv.train.data.image_file import Mode, convert_image, named_in_errors
from dynaconv.train.data.shard_source import hold_out_shards
from dynaconv.train.data.shards import ShardSet
from dynaconv.train.data.shares import EvaluationShare, PaddedImages
from dynaconv.train.data.source import Split, TensorImages, length_of, stratified_split
from dynaconv.train.data.sources import load_source
from dynaconv.train.data.stream import ShardStream, StreamLoader, check_workers
from dynaconv.train.data.transforms import BatchTransform, SmallTransform, photo_transform
from dynaconv.train.stopping import start_loader_process

_MAX_AUTO_WORKERS = 8


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
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        train_limit: int | None = None,
        epoch_size: int | None = None,
        shuffle_buffer: int = 2000,
        augment: Literal["auto", "small", "photo", "none"] = "auto",
        padding: int | None = None,
        flip: bool | None = None,
        erase_prob: float = 0.0,
        rand_augment: str | None = None,
        color_jitter: float = 0.4,
        crop_scale: tuple[float, float] = (0.08, 1.0),
        crop_pct: float = 0.875,
        interpolation: Literal["bilinear", "bicubic", "random"] = "bicubic",
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
            val_fraction: Fraction of each class held out of the training set to select the best checkpoint. With 0 the
                run trains on all images and tests the last checkpoint. Of shards, whole ones are held out.
            test_fraction: Fraction held out of an image folder that has no test set.
            split_seed: Seed of both splits; independent of the run's seed, so that runs are comparable.
            train_limit: Train on only this many images, balanced over the classes as far as possible.
            epoch_size: Images per epoch, for the shards of "wds/..." (by default all) or a data set whose images are
                drawn anew.
            shuffle_buffer: Encoded images that each loader process shuffles while it reads shards.
            augment: "small" pads and crops, "photo" is timm's ImageNet pipeline, "none" only normalises. "auto" leaves
                the choice to the source.
            padding: Border in pixels for "small"; by default an eighth of the side, or 0 for images drawn anew.
            flip: Mirror half of the images; by default on, unless that changes the class (digits).
            erase_prob: Probability that a random rectangle of an image is erased.
            rand_augment: A RandAugment or AutoAugment policy in timm's notation, such as "rand-m9-mstd0.5"; "photo"
                only.
            color_jitter: Strength of the jitter of brightness, contrast and saturation; "photo" only.
            crop_scale: Range of the cropped area as a fraction of the image; "photo" only.
            crop_pct: Fraction of the side that the centre crop of evaluation keeps; "photo" only.
            interpolation: Interpolation of the resizing; "photo" only.
            max_corrupt: Number of corrupt training images that are tolerated; the next one in the data set replaces
                each. One more ends the run.
            seed: Seed of the order of the training images and of their augmentation; the run's seed.
            options: Options of a data set whose images are drawn anew ("glyphs" and others, see docs/drawn-data.md).
        """
        super().__init__()
        self._check_ranges(batch_size, eval_batch_size, val_fraction, test_fraction, erase_prob, image_size, padding)
        if num_workers is not None and num_workers < 0:
            raise DataError(f"num_workers counts processes, at least 0; got {num_workers}.")
        if max_corrupt < 0:
            raise DataError(f"max_corrupt must be at least 0 images; got {max_corrupt}.")
        source = load_source(
            name,
            data_dir=data_dir,
            classes=classes,
            channels=channels,
            image_size=image_size,
            test_fraction=test_fraction,
            split_seed=split_seed,
            options=options,
        )
        self.source = source
        self.name = name
        self.num_classes = len(source.class_names)
        self.class_names = source.class_names
        self.in_channels = source.channels
        self.image_size = image_size or source.image_size
        self.mean, self.std = source.mean, source.std
        self.style = source.style if augment in ("auto", "none") else augment
        self.crop_pct, self.interpolation = crop_pct, interpolation
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or 2 * batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.start = (0, 0)
        self.corrupt = CorruptImages(max_corrupt)
        self.train_split, self.val_split = _hold_out(source.train, source.validation, val_fraction, split_seed)
        if train_limit is not None:
            self.train_split = _limit(self.train_split, train_limit, split_seed)
        if isinstance(self.train_split, DrawnImages) and augment not in ("auto", "small"):
            raise DataError(
                f"augment={augment!r} cannot be used with {name}, whose images are drawn anew; leave it out."
            )
        if epoch_size is not None and isinstance(self.train_split, DrawnImages):
            self.train_split = self.train_split.with_length(epoch_size)
        elif epoch_size is not None and not isinstance(self.train_split, ShardSet):
            raise DataError(f"epoch_size={epoch_size} is for shards (wds/...); use train_limit with {name}.")
        self.epoch_size, self.shuffle_buffer = epoch_size, shuffle_buffer
        flip = source.flip if flip is None else flip
        if self.style == "small" and rand_augment is not None:
            raise DataError(f"rand_augment={rand_augment!r} needs augment='photo', but {name} is augmented as 'small'.")
        self._small_options: dict[str, Any] = {}
        self._photo_options: dict[str, Any] | None = None
        if augment != "none":
            border = self.image_size // 8 if padding is None else padding
            if padding is None and isinstance(self.train_split, DrawnImages):
                # Drawn pictures are shifted at random already.
                border = 0
            self._small_options = {"padding": border, "flip": flip, "erase_prob": erase_prob}
            self._photo_options = {
                "hflip": 0.5 * flip,
                "re_prob": erase_prob,
                "re_mode": "pixel",
                "auto_augment": rand_augment,
                "color_jitter": color_jitter,
                "scale": crop_scale,
            }
        if self.style == "photo":
            self._check_photo_options(rand_augment)

    @staticmethod
    def _check_ranges(
        batch_size: int,
        eval_batch_size: int | None,
        val_fraction: float,
        test_fraction: float,
        erase_prob: float,
        image_size: int | None,
        padding: int | None,
    ) -> None:
        if batch_size < 1 or (eval_batch_size is not None and eval_batch_size < 1):
            raise DataError(f"batch sizes must be at least 1; got batch_size={batch_size}, {eval_batch_size=}.")
        if not 0 <= val_fraction < 1:
            raise DataError(f"val_fraction must be in [0, 1); got {val_fraction}.")
        if not 0 < test_fraction < 1:
            raise DataError(f"test_fraction must be in (0, 1); got {test_fraction}.")
        if not 0 <= erase_prob <= 1:
            raise DataError(f"erase_prob must be a probability in [0, 1]; got {erase_prob}.")
        if padding is not None and padding < 0:
            raise DataError(f"padding must be at least 0 pixels; got {padding}.")
        if image_size is not None and image_size < 4:
            raise DataError(f"image_size must be at least 4 pixels; got {image_size}.")

    def _check_photo_options(self, rand_augment: str | None) -> None:
        """Build the pipeline once, so that an unknown policy raises an error before the run starts."""
        try:
            self._photo_transform(training=True)
        # timm's policies raise these from assertions and look-ups.
        except (AssertionError, KeyError, ValueError, TypeError) as error:
            reason = str(error) or type(error).__name__
            raise DataError(f"timm rejects {rand_augment=} with {self._photo_options}: {reason}") from error

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
        trainer = self.trainer
        sampler, drop_last = None, True
        if not isinstance(dataset, IterableDataset):
            world, rank = self._world_and_rank()
            drop_last = self._fills_a_batch(len(dataset), world)
            sampler = EpochSampler(dataset, num_replicas=world, rank=rank, seed=self.seed, drop_last=drop_last)
            # In a resumed run, Lightning starts the workers of the first epoch before it restores the epoch's number.
            epoch, batches = self.start
            sampler.start = (epoch, batches * self.batch_size)
            sampler.set_epoch(max(trainer.current_epoch if trainer is not None else 0, epoch))
            dataset.corrupt = self.corrupt
        return self._loader(dataset, sampler, batch_size=self.batch_size, drop_last=drop_last)

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
        world, rank = self._world_and_rank()
        if world == 1 or isinstance(dataset, IterableDataset):
            return self._loader(dataset, None, batch_size=self.eval_batch_size)
        share = EvaluationShare(len(dataset), world=world, rank=rank)
        return DataLoader(
            PaddedImages(dataset),
            batch_size=self.eval_batch_size,
            sampler=share,
            collate_fn=already_collated,
            num_workers=self._workers(dataset),
            worker_init_fn=start_loader_process,
            pin_memory=torch.cuda.is_available(),
        )

    def _world_and_rank(self) -> tuple[int, int]:
        """Return the number of processes and the rank of this one."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)

    def check_scale(self, processes: int) -> None:
        """Raise an error, before other processes start, if there are too few shards or images for ``processes``."""
        if isinstance(self.train_split, ShardSet):
            self._stream(self.train_split, training=True, world=processes, rank=0)
            self._stream_workers(self.train_split, training=True, world=processes)

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
        return StreamLoader(stream, epoch=self._epoch, num_workers=workers, pin_memory=torch.cuda.is_available())

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

    def _loader(self, dataset: Any, sampler: EpochSampler | None, **options: Any) -> DataLoader[Any]:
        return make_loader(
            dataset,
            sampler=sampler,
            num_workers=self._workers(dataset),
            pin_memory=torch.cuda.is_available(),
            **options,
        )

    def _workers(self, dataset: Any) -> int:
        if self.num_workers is not None:
            return self.num_workers
        in_memory = isinstance(dataset, SmallImages) and isinstance(dataset.split, TensorImages | DrawnImages)
        return 0 if in_memory else min(os.cpu_count() or 1, _MAX_AUTO_WORKERS)


def _convert(image: Image.Image, mode: Mode, transform: Callable[[Image.Image], Tensor]) -> Tensor:
    with named_in_errors("an image of the stream", "repair the data set"):
        return transform(convert_image(image, mode))


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


def _subset(split: Split, indices: list[int]) -> Split:
    if hasattr(split, "subset"):
        return split.subset(indices)
    return Subset(cast(Any, split), indices)


def _hold_out(train: Split, validation: Split | None, fraction: float, seed: int) -> tuple[Split, Split | None]:
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
    return _subset(train, first), _subset(train, second)


def _limit(train: Split, limit: int, seed: int) -> Split:
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
    return _subset(train, sorted(order[:limit]))
