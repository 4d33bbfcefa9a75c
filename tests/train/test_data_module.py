"""Loaders: what they hold, in which order, and that it depends on seed and epoch alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dynaconv.errors import DataError
from dynaconv.train.data.augmentation import Augmentation, Off, Photo, Small
from dynaconv.train.data.module import ImageDataModule
from tests.messages import refuses, spelled
from tests.train.helpers import write_folder


def targets_of(loader: Any) -> list[int]:
    return [int(target) for _, targets in loader for target in targets]


def test_it_tells_what_a_network_needs_to_know() -> None:
    data = ImageDataModule("digits", image_size=20, batch_size=50)
    images, targets = next(iter(data.train_dataloader()))
    assert (data.num_classes, data.in_channels, data.class_names[3]) == (10, 1, "3")
    assert images.shape == (50, 1, 20, 20)
    assert (images.dtype, targets.dtype) == (torch.float32, torch.int64)


def test_validation_images_come_from_training_and_never_from_test() -> None:
    data, whole = ImageDataModule("digits", val_fraction=0.2), ImageDataModule("digits", val_fraction=0)
    assert len(data.train_split) + len(data.val_split) == len(whole.train_split)
    assert whole.val_split is None
    assert whole.val_dataloader() == []
    assert torch.equal(data.source.test.images, whole.source.test.images)


def test_order_and_augmentation_depend_on_seed_and_epoch() -> None:
    def batch(seed: int, epoch: int) -> torch.Tensor:
        loader = ImageDataModule("digits", batch_size=16, seed=seed).train_dataloader()
        loader.sampler.set_epoch(epoch)
        torch.manual_seed(1)
        images: torch.Tensor = next(iter(loader))[0]
        return images

    assert torch.equal(batch(0, 1), batch(0, 1))
    assert not torch.equal(batch(0, 1), batch(0, 2))
    assert not torch.equal(batch(0, 1), batch(1, 1))


def test_evaluation_keeps_order_and_drops_nothing() -> None:
    data = ImageDataModule("digits", eval_batch_size=64)
    assert targets_of(data.test_dataloader()) == data.source.test.targets.tolist()


def test_training_set_smaller_than_a_batch_still_trains() -> None:
    data = ImageDataModule("digits", train_limit=20, batch_size=64)
    assert len(targets_of(data.train_dataloader())) == 20


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "augment", [Small(erase_prob=0.5), Photo(rand_augment="rand-m9-mstd0.5", erase_prob=0.5), Off()], ids=spelled
)
def test_image_folders_become_batches(tmp_path: Path, augment: Any, channels: int) -> None:
    data = ImageDataModule(
        str(write_folder(tmp_path)),
        channels=channels,
        image_size=24,
        batch_size=4,
        num_workers=0,
        augment=augment,
        val_fraction=0.25,
    )
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (4, channels, 24, 24)
    assert sorted(targets_of(data.test_dataloader())) == [0] * 6 + [1] * 6
    assert images.isfinite().all()


def test_photographs_in_memory_can_use_timms_pipeline() -> None:
    data = ImageDataModule("digits", augment=Photo(), image_size=16, batch_size=8, num_workers=0)
    assert next(iter(data.train_dataloader()))[0].shape == (8, 1, 16, 16)


def test_a_source_of_timm_gives_a_validation_split(tmp_path: Path) -> None:
    write_folder(tmp_path, ("train", "validation"))
    data = ImageDataModule(
        "torch/image_folder", data_dir=str(tmp_path), image_size=16, batch_size=4, num_workers=0, val_fraction=0.34
    )
    assert len(data.train_split) + len(data.val_split) == 12
    assert sorted(targets_of(data.eval_loader(data.val_split))) == [0, 0, 1, 1]


def test_a_corrupt_image_in_a_worker_is_one_sentence(tmp_path: Path) -> None:
    from dynaconv.train.data.batches import one_sentence

    write_folder(tmp_path)
    broken = tmp_path / "train" / "dark" / "0.png"
    broken.write_bytes(b"broken")
    data = ImageDataModule(str(tmp_path), image_size=16, batch_size=12, num_workers=1, val_fraction=0)
    with pytest.raises(DataError) as caught, one_sentence():
        list(data.train_dataloader())
    assert str(broken) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"val_fraction": 1.0},
        {"image_size": 1},
        {"train_limit": 10**6},
        {"augment": Photo(rand_augment="nonsense")},
        {"test_fraction": 0.5},
        {"classes": 10},
        {"data_dir": "."},
        {"shuffle_buffer": 5},
        {"max_corrupt": 1},
        {"crop_pct": 0.9},
        {"interpolation": "bilinear"},
        {"val_fraction": 0, "split_seed": 1},
    ],
    ids=spelled,
)
def test_options_that_do_not_fit_are_named(options: dict[str, Any]) -> None:
    with refuses(DataError, next(reversed(options))):
        ImageDataModule("digits", **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Small(padding=-1),
        lambda: Small(erase_prob=2.0),
        lambda: Photo(erase_prob=-0.1),
        lambda: Photo(color_jitter=-1),
        lambda: Photo(color_jitter=0.1, rand_augment="rand-m9"),
        lambda: Photo(crop_scale=(0.5, 0.2)),
    ],
)
def test_an_augmentation_refuses_values_out_of_range(make: Callable[[], Augmentation]) -> None:
    with refuses(DataError):
        make()


class Stream(torch.utils.data.IterableDataset[Any]):
    """A streamed data set as timm makes them: it applies its ``transform`` itself and need not know its length."""

    transform: Any = None

    def __iter__(self) -> Any:
        from PIL import Image

        for index in range(10):
            yield self.transform(Image.new("RGB", (20, 14), (index * 20,) * 3)), index % 2


@pytest.mark.parametrize("augment", ["Small", "Photo"])
def test_streamed_data_sets_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, augment: str) -> None:
    from dynaconv.errors import RunError
    from dynaconv.train.run import fit
    from tests.train.helpers import tiny_config

    monkeypatch.setattr("timm.data.dataset_factory.create_dataset", lambda *_, **__: Stream())
    data = {"name": "tfds/x", "classes": 2, "image_size": 32, "batch_size": 4, "num_workers": 0, "augment": augment}
    with refuses(DataError):
        fit(tiny_config(data=data), out=tmp_path / "run")
    data["val_fraction"] = 0
    with refuses(RunError):
        fit(tiny_config(data=data), out=tmp_path / "endless")
    result = fit(tiny_config(data=data, trainer__limit_train_batches=2), out=tmp_path / "run")
    assert result.summary["test_accuracy"] >= 0
    assert result.summary["train_images"] is None
    del data["classes"]
    with refuses(DataError, "data.classes"):
        fit(tiny_config(data=data), out=tmp_path / "other")


def test_too_few_images_to_hold_any_out_are_told(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, ("train", "test"), images=1)
    with refuses(DataError, "val_fraction"):
        ImageDataModule(str(folder), image_size=16)
    assert len(ImageDataModule(str(folder), image_size=16, val_fraction=0).train_split) == 2
