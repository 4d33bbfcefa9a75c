"""Images that are drawn anew: what each one follows from, and how the data module takes them."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from dynaconv.errors import DataError, RunError
from dynaconv.train.checkpoint_evaluation import random_images
from dynaconv.train.data.augmentation import Off, Photo, Small
from dynaconv.train.data.drawn import DrawnBatches, DrawnImages, fixed_pictures
from dynaconv.train.data.fingerprint import fingerprint
from dynaconv.train.data.keyed import uniform
from dynaconv.train.data.module import ImageDataModule
from dynaconv.train.data.sources import load_source
from tests.messages import refuses, spelled
from tests.train.helpers import epoch_of

COUNTS = (3, 1, 4)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # One for all tests of a process: the fonts of matplotlib are drawn once.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def draw(images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """The bank's image in the first row, eight bytes of the key below."""
    below = (uniform(keys, 8) * 256).to(torch.uint8).T[:, None, None]
    return torch.cat([images.expand(-1, 1, 1, 8), below], 2)


def drawn(length: int = 50, **options: Any) -> DrawnImages:
    """Item n of the bank has the pixel n."""
    bank = torch.arange(sum(COUNTS), dtype=torch.uint8)[:, None, None, None]
    targets = torch.arange(len(COUNTS)).repeat_interleave(torch.tensor(COUNTS))
    return DrawnImages(bank=bank, bank_targets=targets, draw=draw, length=length, **options)


def test_a_picture_follows_from_seed_epoch_and_position() -> None:
    images = drawn()
    whole, targets = images.pictures(4, 2, range(50))
    for rows in ([7], [49, 0, 13]):
        some, classes = images.pictures(4, 2, rows)
        assert torch.equal(some, whole[rows])
        assert torch.equal(classes, targets[rows])
    for seed, epoch in ((4, 3), (5, 2)):
        assert not (images.pictures(seed, epoch, range(50))[0] == whole).flatten(1).all(1).any()


def test_no_picture_comes_twice() -> None:
    images = drawn(length=2000)
    everything = torch.cat([images.pictures(0, epoch, range(2000))[0] for epoch in range(5)])
    assert len(everything.flatten(1).unique(dim=0)) == 10_000


def test_classes_take_turns_and_all_their_images_are_used() -> None:
    pictures, targets = drawn(length=3000).pictures(0, 0, range(3000))
    assert targets.bincount().tolist() == [1000, 1000, 1000]
    assert torch.equal(targets, drawn(length=3000).targets)
    items = pictures[:, 0, 0, 0].long()
    assert torch.equal(drawn().bank_targets[items], targets)
    counts = items.bincount().float()
    assert counts.tolist() == pytest.approx([1000 / 3] * 3 + [1000] + [250] * 4, rel=0.2)


def test_distinct_pictures_come_again_and_are_the_same_in_every_run() -> None:
    images = drawn(length=20, distinct=7)
    seen = [images.pictures(seed, epoch, range(20))[0].flatten(1) for seed in (0, 5) for epoch in range(4)]
    assert len(torch.cat(seen).unique(dim=0)) == 7
    assert torch.equal(torch.cat(seen[:4]), torch.cat(seen[4:]))
    # The second epoch goes on where the first ended, so each comes equally often.
    assert torch.equal(seen[1][0], seen[0][20 % 7])
    others = drawn(length=20).pictures(0, 0, range(20))[0].flatten(1)
    assert len(torch.cat([others, seen[0]]).unique(dim=0)) == 27


def test_validation_and_test_pictures_are_fixed_and_their_own() -> None:
    images = drawn()
    sets = {
        role: fixed_pictures(images.bank, images.bank_targets, draw, role=role, at_least=10)
        for role in ("validation", "test")
    }
    assert sets["test"].targets.tolist() == images.bank_targets.tolist() * 2
    assert torch.equal(sets["test"].images[:8, 0, 0, 0].long(), torch.arange(8))
    again = fixed_pictures(images.bank, images.bank_targets, draw, role="test", at_least=10)
    assert torch.equal(again.images, sets["test"].images)
    everything = torch.cat([sets["test"].images, sets["validation"].images, images.pictures(0, 0, range(50))[0]])
    assert len(everything[:, :, 1].flatten(1).unique(dim=0)) == 16 + 16 + 50


@pytest.mark.parametrize("options", [{"length": 0}, {"distinct": 0}], ids=spelled)
def test_numbers_that_do_not_fit_are_named(options: dict[str, Any]) -> None:
    with refuses(DataError):
        drawn(**options)


@pytest.mark.parametrize("options", [None, {"distinct": 30}], ids=["endless", "distinct"])
def test_pictures_are_alike_whatever_loads_them(options: dict[str, Any] | None) -> None:
    def module(**changes: Any) -> ImageDataModule:
        return ImageDataModule("glyphs-mini", epoch_size=64, seed=3, options=options, **changes)

    one = epoch_of(module(batch_size=64, num_workers=0))
    assert len(one) == 64
    torch.rand(3)
    for changes in ({"batch_size": 16, "num_workers": 0}, {"batch_size": 8, "num_workers": 2}):
        other = epoch_of(module(**changes))
        assert other.keys() == one.keys()
        assert all(torch.equal(other[position], one[position]) for position in one)


def test_a_run_that_starts_inside_an_epoch_sees_what_is_left_of_it() -> None:
    whole = list(ImageDataModule("glyphs-mini", batch_size=16, epoch_size=96, seed=2).train_dataloader())
    data = ImageDataModule("glyphs-mini", batch_size=16, epoch_size=96, seed=2)
    data.start = (0, 4)
    rest = list(data.train_dataloader())
    assert len(rest) == 2
    for (images, targets), (same, classes) in zip(rest, whole[4:], strict=True):
        assert torch.equal(images, same)
        assert torch.equal(targets, classes)


def test_the_module_holds_out_fonts_and_adds_no_crop() -> None:
    data = ImageDataModule("glyphs-mini", batch_size=32, epoch_size=64)
    assert len(data.train_split) == 64
    assert data.val_split is data.source.validation
    loader = data.train_dataloader()
    assert isinstance(loader.dataset, DrawnBatches)
    assert loader.num_workers == 0
    pictures, targets = data.train_split.pictures(data.seed, 0, range(64))
    images, classes = loader.dataset.__getitems__(range(64))
    assert torch.equal(targets, classes)
    assert torch.equal((images * data.std[0] + data.mean[0]).mul(255).round().to(torch.uint8), pictures)
    moved = (
        ImageDataModule("glyphs-mini", epoch_size=64, augment=Small(padding=2))
        .train_dataloader()
        .dataset.__getitems__(range(64))[0]
    )
    assert not torch.equal(moved, images)


def test_training_pictures_can_be_evaluated() -> None:
    data = ImageDataModule("glyphs-mini", epoch_size=40, eval_batch_size=20)
    first, again = (torch.cat([images for images, _ in data.eval_loader(data.train_split)]) for _ in range(2))
    assert len(first) == 40
    assert torch.equal(first, again)
    some = random_images(data, "train", 7, seed=3)
    ((images, classes),) = data.eval_loader(some)
    assert len(images) == len(classes) == 7
    positions = [int((first == image).flatten(1).all(1).nonzero()) for image in images]
    assert positions == sorted(set(positions))
    assert classes.tolist() == [int(data.train_split.targets[position]) for position in positions]


def test_options_reach_the_data_and_others_refuse_them() -> None:
    data = ImageDataModule("glyphs-mini", options={"distinct": 9}, epoch_size=40)
    assert data.train_split.distinct == 9
    for name, options in (
        ("digits", {"distinct": 9}),
        ("glyphs-mini", {"distict": 9}),
        ("glyphs-mini", {"distinct": 0}),
        ("glyphs-mini", {"distinct": True}),
        ("glyphs-mini", {"distinct": "many"}),
    ):
        with refuses(DataError, *options):
            load_source(name, options=options)
    with refuses(DataError, "distinct"):
        ImageDataModule("glyphs-mini", train_limit=5)
    for augment in (Off(), Photo()):
        with refuses(DataError, type(augment).__name__):
            ImageDataModule("glyphs-mini", augment=augment)
    with refuses(DataError):
        ImageDataModule("glyphs-mini", epoch_size=0)
    with refuses(DataError, "data_dir"):
        load_source("glyphs-mini", data_dir="x")
    with refuses(DataError, "channels"):
        load_source("glyphs-mini", channels=3)


def test_a_checkpoint_knows_the_bank_it_was_trained_on() -> None:
    def digest(**options: Any) -> Any:
        return fingerprint(("a", "b", "c"), {"train": drawn(**options)})["train"]

    assert digest() == digest()
    assert digest()["digest"] != digest(distinct=5)["digest"]
    assert digest(length=20)["images"] == 20


def test_a_run_trains_tests_and_is_tested_again(tmp_path: Path) -> None:
    from dynaconv.train.checkpoint import load_trained
    from dynaconv.train.checkpoint_evaluation import evaluate_checkpoint
    from dynaconv.train.run import fit
    from tests.train.helpers import tiny_config

    data = {"name": "glyphs-mini", "batch_size": 32, "epoch_size": 64, "options": {"distinct": 40}}
    result = fit(tiny_config(data=data), out=tmp_path / "run")
    assert result.summary["train_images"] == 64
    assert result.summary["val_accuracy"] is not None
    model, metadata = load_trained(tmp_path / "run")
    assert metadata["data"]["options"] == {"distinct": 40}
    assert evaluate_checkpoint(model, metadata).accuracy == result.summary["test_accuracy"]
    assert evaluate_checkpoint(model, metadata, split="train").images > 64


@pytest.mark.usefixtures("own_environment")
def test_a_run_stopped_inside_an_epoch_ends_as_one_that_was_not(tmp_path: Path) -> None:
    from dynaconv.train.run import fit, resume
    from dynaconv.train.stopping import RunStopped
    from tests.train.helpers import When, tiny_config
    from tests.train.test_kill import left_by, unlike

    stop = partial(When, "on_train_batch_end", 6)
    config = tiny_config(data={"name": "glyphs-mini", "batch_size": 32, "epoch_size": 128})
    fit(config, out=tmp_path / "whole")
    with pytest.raises(RunStopped):
        fit(config, out=tmp_path / "run", callbacks=[stop()])
    resume(tmp_path / "run")
    assert unlike(left_by(tmp_path / "run"), left_by(tmp_path / "whole")) == []
    config = config.with_changes(
        data={"name": "glyphs-mini", "batch_size": 32, "epoch_size": 128, "options": {"distinct": 9}}
    )
    with pytest.raises(RunStopped):
        fit(config, out=tmp_path / "other", callbacks=[stop()])
    with refuses(RunError, "data.options.distinct"):
        resume(tmp_path / "other", overrides=["--data.options.distinct=8"])
