"""Fashion-MNIST under strong augmentation."""

from pathlib import Path

import pytest
import torch

from dynaconv.train.data.module import ImageDataModule
from dynaconv.train.data.sources import load_source
from tests.train.test_sources import write_fashion


def test_it_holds_out_training_images_and_keeps_the_test_set(tmp_path: Path) -> None:
    folder = write_fashion(tmp_path, train=200, test=30)
    plain, hard = (load_source(name, data_dir=folder) for name in ("fashion-mnist", "fashion-mnist-hard"))
    assert hard.class_names == plain.class_names
    assert (len(hard.train), len(hard.validation), len(hard.test)) == (180, 20, 30)
    assert torch.equal(hard.test.targets, plain.test.targets)
    assert hard.test.images.shape == (30, 1, 32, 32)
    assert hard.validation.targets.bincount().tolist() == [2] * 10
    # The bank is the rest of the training images, sorted by class.
    assert hard.train.bank_targets.tolist() == sorted(hard.train.bank_targets.tolist())
    pairs = zip(plain.train.images, plain.train.targets, strict=True)
    pixels = {image.numpy().tobytes(): int(target) for image, target in pairs}
    for image, target in zip(hard.train.bank, hard.train.bank_targets, strict=True):
        assert pixels[image.numpy().tobytes()] == int(target)
    again = load_source("fashion-mnist-hard", data_dir=folder)
    assert torch.equal(again.validation.images, hard.validation.images)


def test_it_trains_at_any_size(tmp_path: Path) -> None:
    data = ImageDataModule(
        "fashion-mnist-hard",
        data_dir=str(write_fashion(tmp_path, train=200)),
        image_size=24,
        batch_size=10,
        options={"distinct": 40},
    )
    images, targets = next(iter(data.train_dataloader()))
    assert images.shape == (10, 1, 24, 24)
    assert data.train_split.distinct == 40
    assert len(data.train_split) == 180
    assert float(images.abs().max()) < 3
    assert int(targets.max()) <= 9


@pytest.mark.parametrize("size", [None, 20])
def test_the_size_is_of_training_and_test_alike(tmp_path: Path, size: int | None) -> None:
    source = load_source("fashion-mnist-hard", data_dir=write_fashion(tmp_path), image_size=size)
    assert source.test.images.shape[-1] == source.train.pictures(0, 0, [0])[0].shape[-1] == (size or 32)
