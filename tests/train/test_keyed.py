"""Random numbers by seed, epoch and image: the generator, and that loading changes nothing about them."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynaconv.train.data.augmentation import Photo, Small
from dynaconv.train.data.keyed import generators_seeded, image_keys, scramble, uniform
from dynaconv.train.data.module import ImageDataModule
from tests.messages import spelled
from tests.train.helpers import epoch_of, write_folder


def test_the_generator_is_splitmix64() -> None:
    # The first outputs for the seed 1234567, as published with the reference code.
    step = 0x9E3779B97F4A7C15
    states = [(1234567 + step * n + 2**63) % 2**64 - 2**63 for n in range(3)]
    outputs = scramble(torch.tensor(states)).tolist()
    assert [value % 2**64 for value in outputs] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_numbers_are_uniform_and_streams_independent() -> None:
    keys = image_keys(0, 0, range(100_000))
    drawn = uniform(keys, 4)
    assert torch.equal(uniform(keys, 2), drawn[:2])
    assert 0 <= drawn.min() < 1e-4
    assert 1 - 1e-4 < drawn.max() < 1
    for row in drawn:
        counts = torch.histc(row, 50, 0, 1)
        # Chi-square of 49 degrees of freedom; 99 is its 0.99997 quantile.
        assert float(((counts - 2000) ** 2 / 2000).sum()) < 99
    assert float((torch.corrcoef(drawn) - torch.eye(4)).abs().max()) < 0.015
    # Neither do neighbours in number, epoch or seed have to do with each other.
    for other in (
        image_keys(0, 0, range(1, 100_001)),
        image_keys(0, 1, range(100_000)),
        image_keys(1, 0, range(100_000)),
    ):
        assert abs(float(torch.corrcoef(torch.stack([drawn[0], uniform(other, 1)[0]]))[0, 1])) < 0.015


def test_keys_differ_in_seed_epoch_and_image() -> None:
    keys = torch.cat([image_keys(seed, epoch, range(200)) for seed in (0, 1, 2**32 - 1) for epoch in range(20)])
    assert len(keys.unique()) == len(keys)


def test_seeding_the_generators_leaves_them_as_they_were() -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    wanted = draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with generators_seeded(2**62 + 5):
        first = draw()
    assert draw() == wanted
    with generators_seeded(2**62 + 5):
        assert draw() == first != wanted


@pytest.mark.parametrize(
    "augment", [Small(erase_prob=0.5), Photo(erase_prob=0.5, rand_augment="rand-m9-mstd0.5")], ids=spelled
)
@pytest.mark.parametrize("source", ["a folder", "digits"])
def test_an_image_is_augmented_alike_whatever_loads_it(tmp_path: Path, augment: Any, source: str) -> None:
    name = "digits" if source == "digits" else str(write_folder(tmp_path, images=8))

    def images(**options: Any) -> dict[int, torch.Tensor]:
        given = {"image_size": 16, "train_limit": 16, "val_fraction": 0, "seed": 3, **options}
        return epoch_of(ImageDataModule(name, augment=augment, **given))

    one = images(batch_size=16, num_workers=0)
    assert len(one) == 16
    torch.rand(3), random.random()
    for options in ({"batch_size": 4, "num_workers": 0}, {"batch_size": 4, "num_workers": 2}):
        other = images(**options)
        assert other.keys() == one.keys()
        assert all(torch.equal(other[index], one[index]) for index in one)


def test_two_processes_see_at_each_step_what_one_sees() -> None:
    from dynaconv.train.data.batches import EpochSampler, SmallImages

    data = ImageDataModule("digits", batch_size=32, train_limit=320, seed=4)
    whole = list(data.train_dataloader())
    assert isinstance(data.train_dataloader().dataset, SmallImages)
    dataset = data.train_dataloader().dataset
    samplers = [EpochSampler(dataset, num_replicas=2, rank=rank, seed=4, drop_last=True) for rank in (0, 1)]
    for sampler in samplers:
        sampler.set_epoch(0)
    shares = [
        list(torch.utils.data.DataLoader(dataset, 16, sampler=s, collate_fn=lambda batch: batch)) for s in samplers
    ]
    for step, (images, _) in enumerate(whole):
        both = torch.cat([share[step][0] for share in shares])
        assert torch.equal(both.flatten(1).sort(0).values, images.flatten(1).sort(0).values)


def test_a_loader_starts_inside_an_epoch_without_opening_what_lies_before(monkeypatch: pytest.MonkeyPatch) -> None:
    from dynaconv.train.data.batches import SmallImages

    whole = [
        images for images, _ in ImageDataModule("digits", batch_size=16, train_limit=96, seed=2).train_dataloader()
    ]
    data = ImageDataModule("digits", batch_size=16, train_limit=96, seed=2)
    data.start = (0, 4)
    opened: list[int] = []
    original = SmallImages.__getitems__
    monkeypatch.setattr(SmallImages, "__getitems__", lambda self, rows: (opened.extend(rows), original(self, rows))[1])
    loader = data.train_dataloader()
    rest = [images for images, _ in loader]
    assert len(loader) == 6
    assert len(opened) == 32
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[4:], strict=True))
    loader.sampler.set_epoch(1)
    assert len(list(loader)) == 6
