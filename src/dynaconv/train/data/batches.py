"""Data sets that hand a loader whole batches, and a sampler whose order depends on seed and epoch alone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from dynaconv.errors import CorruptImageError, DataError
from dynaconv.train.data.corrupt import CorruptImages
from dynaconv.train.data.keyed import generators_seeded, image_keys
from dynaconv.train.data.source import ImageSet, TensorImages
from dynaconv.train.data.transforms import BatchTransform, image_to_tensor, resize_batch
from dynaconv.train.stopping import start_loader_process

Batch = tuple[Tensor, Tensor]


class _Augmented(Dataset[Any]):
    """Images whose augmentation follows from seed, epoch and position alone, once `set_epoch` told the epoch."""

    split: Any
    corrupt: CorruptImages | None = None
    _seed_and_epoch: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.split)

    def set_epoch(self, seed: int, epoch: int) -> None:
        """Augment from now on as in this epoch of a run with this seed."""
        self._seed_and_epoch = (seed, epoch)

    def _keys(self, indices: Sequence[int]) -> Tensor | None:
        return None if self._seed_and_epoch is None else image_keys(*self._seed_and_epoch, indices)

    def _read(self, index: int) -> tuple[Image.Image, int]:
        """Open an image; for one that is corrupt, while the run allows that, the next one that is not."""
        for step in range(len(self.split)):
            try:
                image, target = self.split[(index + step) % len(self.split)]
            except CorruptImageError as error:
                if self.corrupt is None:
                    raise
                self.corrupt.add(error)
                continue
            return image, target
        raise DataError("every image of the training set is corrupt.")


class SmallImages(_Augmented):
    """Small images, augmented a batch at a time, which costs a tenth of doing it one by one."""

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
    """Shuffles by seed and epoch, so that a resumed run sees what an uninterrupted one would have seen.

    Lightning calls `set_epoch` at the start of each epoch. The augmentation follows, and so does the generator of the
    loader, from which its workers get their seeds. A global step sees the same images for any number of processes.

    Attributes:
        start: Epoch, from 0, and how many images of it this process passes over without opening them.
    """

    def __init__(self, dataset: Dataset[Any], *, num_replicas: int, rank: int, seed: int, drop_last: bool) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=True, seed=seed, drop_last=drop_last)
        self.worker_seeds = torch.Generator()
        self.start = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.worker_seeds.manual_seed(self.seed + 7919 * epoch + self.rank)
        if isinstance(self.dataset, _Augmented):
            self.dataset.set_epoch(self.seed, epoch)

    def __iter__(self) -> Iterator[Any]:
        epoch, passed = self.start
        return islice(super().__iter__(), passed if self.epoch == epoch else 0, None)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Shorten a `DataError` that a loader's worker process raised: it arrives with that process's traceback."""
    try:
        yield
    except DataError as error:
        message = str(error)
        if "\n" not in message:
            raise
        raise DataError(message.rsplit("DataError: ", 1)[-1].strip()) from None


def already_collated(batch: Any) -> Any:
    """Leave a batch as the data set made it."""
    return batch


def make_loader(dataset: Any, *, sampler: EpochSampler | None, **options: Any) -> DataLoader[Any]:
    """Build a loader; a `SmallImages` already returns whole batches."""
    if isinstance(dataset, SmallImages):
        options["collate_fn"] = already_collated
    if sampler is not None:
        options.update(sampler=sampler, generator=sampler.worker_seeds)
    return DataLoader(dataset, worker_init_fn=start_loader_process, **options)
