"""Data sets that return whole batches, and a sampler whose order depends only on seed and epoch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate

from dynaconv.errors import CorruptImageError, DataError
from dynaconv.train.data.corrupt import CorruptImages
from dynaconv.train.data.keyed import generators_seeded, image_keys
from dynaconv.train.data.source import ImageSet, TensorImages
from dynaconv.train.data.transforms import BatchTransform, image_to_tensor, resize_batch
from dynaconv.train.stopping import start_loader_process

Batch = tuple[Tensor, Tensor]


class _Augmented(Dataset[Any]):
    """Images whose augmentation depends only on seed, epoch and position, once `set_epoch` has been called."""

    split: Any
    corrupt: CorruptImages | None = None
    _seed_and_epoch: tuple[int, int] | None = None
    _numbers: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.split)

    def set_epoch(self, seed: int, epoch: int, numbers: Sequence[int] | None = None) -> None:
        """Set the seed and the epoch that determine the augmentation.

        Args:
            seed: The run's seed.
            epoch: From 0.
            numbers: Positions of the images in the training set, if this is a part of it.
        """
        self._seed_and_epoch, self._numbers = (seed, epoch), numbers

    def _keys(self, indices: Sequence[int]) -> Tensor | None:
        if self._seed_and_epoch is None:
            return None
        numbers = indices if self._numbers is None else [self._numbers[index] for index in indices]
        return image_keys(*self._seed_and_epoch, numbers)

    def _read(self, index: int) -> tuple[Image.Image, int]:
        """Open an image. The next valid one replaces a corrupt image that the run tolerates."""
        for step in range(len(self.split)):
            try:
                image, target = self.split[(index + step) % len(self.split)]
            except CorruptImageError as error:
                if self.corrupt is None:
                    raise
                self.corrupt.add(error)
                continue
            return image, target
        raise DataError(f"all of {len(self.split):,} training images in a row are corrupt; repair the data set.")


class SmallImages(_Augmented):
    """Small images that are augmented per batch, which takes a tenth of the time of augmenting one at a time."""

    def __init__(self, split: TensorImages | ImageSet, transform: BatchTransform, image_size: int) -> None:
        if isinstance(split, TensorImages):
            split = TensorImages(images=resize_batch(split.images, image_size), targets=split.targets)
        self.split = split
        self.transform = transform
        self.image_size = image_size

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        keys = self._keys(indices)
        if isinstance(self.split, TensorImages):
            rows = torch.as_tensor(indices)
            return self.transform(self.split.images[rows], keys), self.split.targets[rows]
        pairs = [self._read(index) for index in indices]
        images = torch.stack([image_to_tensor(image, self.image_size) for image, _ in pairs])
        return self.transform(images, keys), torch.tensor([target for _, target in pairs])

    def __getitem__(self, index: int) -> Batch:
        images, targets = self.__getitems__([index])
        return images[0], targets[0]


class Photographs(_Augmented):
    """Photographs of any size, augmented one at a time."""

    def __init__(self, split: ImageSet | TensorImages, transform: Callable[[Image.Image], Tensor]) -> None:
        self.split = split
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if isinstance(self.split, TensorImages):
            from torchvision.transforms.functional import to_pil_image

            image, target = to_pil_image(self.split.images[index]), int(self.split.targets[index])
        else:
            image, target = self._read(index)
        keys = self._keys([index])
        if keys is None:
            return self.transform(image), target
        # timm's transforms draw from the global generators of all three libraries.
        with generators_seeded(int(keys) % 2**63):
            return self.transform(image), target


class EpochSampler(DistributedSampler[Any]):
    """Shuffles by seed and epoch, so that a resumed run uses the same images as an uninterrupted one.

    Lightning calls `set_epoch` at the start of each epoch. It also sets the epoch of the augmentation. A global step
    has the same images for any number of processes.

    Attributes:
        start: Epoch, from 0, and number of its images that this process skips without opening them.
    """

    def __init__(self, dataset: Dataset[Any], *, num_replicas: int, rank: int, seed: int, drop_last: bool) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=True, seed=seed, drop_last=drop_last)
        self.start = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        if isinstance(self.dataset, _Augmented):
            self.dataset.set_epoch(self.seed, epoch)

    def __iter__(self) -> Iterator[Any]:
        epoch, skipped = self.start
        return islice(super().__iter__(), skipped if self.epoch == epoch else 0, None)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Shorten a `DataError` of a loader's worker process, whose message contains the traceback of that process."""
    try:
        yield
    except DataError as error:
        message = str(error)
        if "\n" not in message:
            raise
        raise DataError(message.rsplit("DataError: ", 1)[-1].strip()) from None


def already_collated(batch: Any) -> Any:
    """Return a batch unchanged."""
    return batch


def collated(dataset: Any, indices: Sequence[int]) -> Batch:
    """Return one batch of a map-style data set of images or whole batches."""
    if hasattr(dataset, "__getitems__"):
        batch: Batch = dataset.__getitems__(indices)
        return batch
    images, targets = default_collate([dataset[index] for index in indices])
    return images, targets


def loader_options() -> dict[str, Any]:
    """Return the options that all loaders share."""
    return {"worker_init_fn": start_loader_process, "pin_memory": torch.cuda.is_available()}


def make_loader(dataset: Any, **options: Any) -> DataLoader[Any]:
    """Build a loader. Whole batches are not collated, and an `EpochSampler` leaves the global generator alone."""
    if hasattr(dataset, "__getitems__"):
        options["collate_fn"] = already_collated
    if isinstance(options.get("sampler"), EpochSampler):
        options["generator"] = torch.Generator()
    return DataLoader(dataset, **loader_options(), **options)
