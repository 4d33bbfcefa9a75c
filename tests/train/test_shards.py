"""Shards: packed whole, indexed truly, and streamed so that every image comes once."""

import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dynaconv.errors import DataError
from dynaconv.train.data.augmentation import Off, Small
from dynaconv.train.data.module import ImageDataModule
from dynaconv.train.data.pack import index_shards, pack_folder, parse_size
from dynaconv.train.data.shards import INDEX_FILE, ShardSet, read_index, read_range, shards_of, url_of
from dynaconv.train.data.shares import PADDING, evaluation_share
from dynaconv.train.data.stream import ShardStream, StreamLoader
from tests.messages import refuses

TRAIN, TEST = 112, 13


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """125 images whose pixels are their number, in shards of at most 7."""
    root = tmp_path_factory.mktemp("packed")
    number = 0
    for split, count in (("train", TRAIN), ("test", TEST)):
        for index in range(count):
            path = root / "images" / split / ("even", "odd")[index % 2] / f"photo.{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(path)
            number += 1
    pack_folder(root / "images", root / "shards", shard_images=7)
    return root / "shards"


def stream_of(packed: Path, split: str = "train", **options: Any) -> ShardStream:
    shards = shards_of(read_index(str(packed)), split, str(packed), "RGB")
    defaults = {"batch_size": 4, "world": 2, "rank": 0, "training": split == "train", "seed": 5, "buffer": 10}
    return ShardStream(shards, numbers, **{**defaults, **options})


class numbers:  # noqa: N801  # stands for a function that makes a data set
    """A data set of the number that each image's pixels hold."""

    def __init__(self, pairs: list[tuple[Image.Image, int]]) -> None:
        self.pairs = pairs

    def set_epoch(self, *_: Any) -> None: ...

    def __getitems__(self, indices: Any) -> tuple[torch.Tensor, torch.Tensor]:
        values = [np.asarray(self.pairs[i][0])[0, 0, 0] for i in indices]
        return torch.tensor(np.array(values)), torch.tensor([self.pairs[i][1] for i in indices])


def load(stream: ShardStream, workers: int, epoch: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(StreamLoader(stream, epoch=lambda: epoch, num_workers=workers))


def test_packing_keeps_every_file_as_it_is(packed: Path) -> None:
    found: dict[str, bytes] = {}
    for path in sorted(packed.glob("*.tar")):
        with tarfile.open(path) as archive:
            files = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
        for name in [name for name in files if name.endswith(".json")]:
            about = json.loads(files[name])
            assert int(files[name.replace(".json", ".cls")]) == about["label"]
            found[about["filename"]] = files[name.replace(".json", ".png")]
    images = packed.parent / "images"
    assert found == {str(path.relative_to(images)): path.read_bytes() for path in images.rglob("*.png")}


def test_the_index_counts_what_is_there_and_is_made_again_the_same(packed: Path) -> None:
    index = read_index(str(packed))
    assert {name: split["num_samples"] for name, split in index["splits"].items()} == {"train": TRAIN, "test": TEST}
    assert index["classes"] == ["even", "odd"]
    again = index_shards(packed)
    for split in again["splits"].values():
        assert split.pop("alt_label") == ""
    assert again == index


def test_timm_reads_the_index(packed: Path) -> None:
    from timm.data.readers.reader_wds import _load_info, _parse_split_info

    split = _parse_split_info("train", _load_info(str(packed)))  # type: ignore[no-untyped-call]
    assert (split.num_samples, len(split.filenames)) == (TRAIN, 16)


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("batch_size", [4, 5, 7])
def test_two_ranks_and_their_workers_see_every_image_once(packed: Path, workers: int, batch_size: int) -> None:
    ranks = [stream_of(packed, rank=rank, batch_size=batch_size) for rank in range(2)]
    keys: Counter[str] = Counter()
    for stream in ranks:
        for worker in range(workers or 1):
            keys.update(sample["__key__"] for sample in stream.samples(worker, workers or 1))
    used = TRAIN - TRAIN % (2 * batch_size)
    assert len(keys) == used
    assert set(keys.values()) == {1}
    assert {len(stream) for stream in ranks} == {used // (2 * batch_size)}


def test_the_loaders_processes_lose_and_repeat_nothing(packed: Path) -> None:
    epochs = []
    for epoch in (0, 1):
        loaded = [load(stream_of(packed, rank=rank), workers=2, epoch=epoch) for rank in range(2)]
        assert [len(batches) for batches in loaded] == [14, 14]
        assert all(len(images) == 4 for batches in loaded for images, _ in batches)
        epochs.append([int(number) for batches in loaded for images, _ in batches for number in images])
        # The number's parity is its class.
        assert all(((images % 2) == targets).all() for batches in loaded for images, targets in batches)
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(TRAIN))
    assert epochs[0] != epochs[1]
    again = [load(stream_of(packed, rank=rank), workers=2, epoch=1) for rank in range(2)]
    assert [int(number) for batches in again for images, _ in batches for number in images] == epochs[1]


def test_another_seed_gives_another_order_and_an_epoch_may_be_shorter(packed: Path) -> None:
    orders = [[s["__key__"] for s in stream_of(packed, seed=seed, epoch_size=40).samples(0, 1)] for seed in (1, 2)]
    assert orders[0] != orders[1]
    assert len(set(orders[0])) == 20


@pytest.mark.parametrize(("world", "batch_size", "workers"), [(1, 4, 2), (2, 4, 2), (3, 5, 0), (4, 2, 1)])
def test_evaluation_sees_every_image_once_in_equal_steps(
    packed: Path, world: int, batch_size: int, workers: int
) -> None:
    ranks = [stream_of(packed, "test", world=world, rank=rank, batch_size=batch_size) for rank in range(world)]
    loaded = [load(stream, workers) for stream in ranks]
    assert len({len(batches) for batches in loaded}) == 1
    numbers = [int(n) for batches in loaded for images, targets in batches for n in images[targets != PADDING]]
    assert sorted(numbers) == list(range(TRAIN, TRAIN + TEST))


@pytest.mark.parametrize(("length", "world"), [(10, 1), (10, 3), (2, 4)])
def test_evaluation_of_a_map_style_set_is_divided_the_same_way(length: int, world: int) -> None:
    shares = [evaluation_share(length, world=world, rank=rank) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    assert sorted(i for share in shares for i in share if i != PADDING) == list(range(length))


def test_places_of_files() -> None:
    assert url_of("/data", "a.tar") == "/data/a.tar"
    assert url_of("https://host/data/", "a.tar") == "https://host/data/a.tar"
    assert url_of("pipe:cat /data/{} | zcat", "a.tar") == "pipe:cat /data/a.tar | zcat"
    assert url_of("s3://bucket/a b", "a.tar") == "pipe:aws s3 cp 's3://bucket/a b/a.tar' -"


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(packed, tmp_path / "copy"))


def module_of(folder: Path, **options: Any) -> ImageDataModule:
    defaults = {"image_size": 8, "batch_size": 4, "num_workers": 0, "augment": Off()}
    return ImageDataModule(name="wds/mine", data_dir=str(folder), **{**defaults, **options})


def test_the_data_module_streams_shards_from_disk_and_through_a_command(packed: Path) -> None:
    for location in (str(packed), f"pipe:cat {packed}/{{}}", f"file://{packed}"):
        module = ImageDataModule(
            name="wds/mine", data_dir=location, image_size=8, batch_size=4, num_workers=0, augment=Off()
        )
        assert (module.class_names, module.num_classes) == (("even", "odd"), 2)
        # Two of the sixteen shards are about a tenth.
        assert len(module.val_split) == 14
        assert len(module.train_split) == TRAIN - 14
        images, targets = next(iter(module.train_dataloader()))
        assert images.shape == (4, 3, 8, 8)
        mean, std = torch.tensor(module.mean), torch.tensor(module.std)
        values = (images[:, :, 0, 0] * std + mean) * 255
        assert ((values.mean(1).round().long() % 2) == targets).all()
        assert sum(len(batch[1]) for batch in module.test_dataloader()) == TEST


def test_shards_without_a_word_on_mixing_hold_none_out(copy: Path) -> None:
    index = json.loads((copy / INDEX_FILE).read_text())
    (copy / INDEX_FILE).write_text(json.dumps({**index, "shuffled": False}))
    with refuses(DataError, "--data.val_fraction"):
        module_of(copy)
    assert len(module_of(copy, val_fraction=0).train_split) == TRAIN


def test_a_missing_shard_is_named(copy: Path) -> None:
    (copy / "train-000003.tar").unlink()
    with refuses(DataError, "train-000003.tar"):
        module_of(copy)


def test_a_missing_index_a_missing_folder_and_a_command_without_braces_are_told(tmp_path: Path) -> None:
    with refuses(DataError, "_info.json"):
        module_of(tmp_path)
    with refuses(DataError, "nowhere"):
        module_of(tmp_path / "nowhere")
    with refuses(DataError, "{}"):
        ImageDataModule(name="wds/x", data_dir="pipe:cat x")
    with refuses(DataError):
        ImageDataModule(name="wds/x", data_dir="pipe:cat /nowhere/{}")
    with refuses(DataError, "wds/"):
        ImageDataModule(name="torch/cifar10", data_dir="https://example.invalid/x")


@pytest.mark.parametrize(("lie", "found"), [(8, "7"), (6, "more")])
def test_an_index_that_does_not_match_a_shard_is_told(copy: Path, lie: int, found: str) -> None:
    index = json.loads((copy / INDEX_FILE).read_text())
    index["splits"]["train"]["shard_lengths"][0] = lie
    index["splits"]["train"]["num_samples"] = TRAIN - 7 + lie
    (copy / INDEX_FILE).write_text(json.dumps(index))
    stream = stream_of(copy, world=1, batch_size=1)
    with refuses(DataError, "train-000000.tar"):
        list(stream.samples(0, 1))
    index_shards(copy)
    assert len(list(stream_of(copy, world=1).samples(0, 1))) == TRAIN


def test_an_index_that_contradicts_itself_is_told(copy: Path) -> None:
    index = json.loads((copy / INDEX_FILE).read_text())
    index["splits"]["train"]["num_samples"] = 5
    (copy / INDEX_FILE).write_text(json.dumps(index))
    with refuses(DataError, "shard_lengths"):
        module_of(copy)


def test_a_broken_shard_and_a_corrupt_image_are_named(copy: Path) -> None:
    whole = (copy / "train-000000.tar").read_bytes()
    (copy / "train-000000.tar").write_bytes(whole[: len(whole) // 2])
    with refuses(DataError, "train-000000.tar"):
        list(read_range(stream_of(copy).shards, [0], 0, 7))
    (copy / "train-000000.tar").write_bytes(whole.replace(b"\x89PNG", b"\x89PNK"))
    with refuses(DataError):
        load(stream_of(copy, world=1), 0)


def test_too_few_shards_and_images_are_told(packed: Path) -> None:
    from dynaconv.train.data.stream import check_workers

    shards = shards_of(read_index(str(packed)), "train", str(packed), "RGB")
    assert check_workers(shards, 4, None, 8) == 4
    with refuses(DataError):
        check_workers(shards, 20, None, 8)
    with refuses(DataError, "--data.num_workers"):
        check_workers(shards, 4, 5, 8)
    with refuses(DataError):
        stream_of(packed, batch_size=64)
    with refuses(DataError, "epoch_size"):
        stream_of(packed, epoch_size=500)
    with refuses(DataError, "data.epoch_size"):
        module_of(packed, train_limit=5)
    with refuses(DataError):
        ImageDataModule(name="digits", epoch_size=5)


def test_packing_refuses_what_it_cannot_use(packed: Path, tmp_path: Path) -> None:
    images = packed.parent / "images"
    with refuses(DataError):
        pack_folder(images, packed)
    with refuses(DataError):
        pack_folder(images, tmp_path / "a", shard_images=0)
    for text in ("", "10XB", "-3", "0"):
        with refuses(DataError):
            parse_size(text)
    assert [parse_size(text) for text in ("1.5MB", "20 kb", "7")] == [1_500_000, 20_000, 7]
    with refuses(DataError):
        index_shards(tmp_path)


def test_a_shards_own_label_key_is_read(copy: Path) -> None:
    index = json.loads((copy / INDEX_FILE).read_text())
    index["splits"]["train"]["alt_label"] = "label"
    (copy / INDEX_FILE).write_text(json.dumps(index))
    shards: ShardSet = stream_of(copy).shards
    assert shards.label_key == "label"
    assert len(load(stream_of(copy), 0)) == 14
    index["splits"]["train"]["alt_label"] = "species"
    (copy / INDEX_FILE).write_text(json.dumps(index))
    with refuses(DataError, "species"):
        load(stream_of(copy), 0)


def test_a_data_set_of_hugging_face_is_read_by_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    from datasets import ClassLabel, Dataset, DatasetDict, Features
    from datasets import Image as ImageFeature

    images = [Image.fromarray(np.full((8, 8, 3), 10 * number, dtype=np.uint8)) for number in range(20)]
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["even", "odd"])})
    table = {"image": images, "label": [number % 2 for number in range(20)]}
    whole = DatasetDict({split: Dataset.from_dict(table, features=features) for split in ("train", "validation")})
    # What timm asks for by name, which would otherwise come from the network.
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split=None, **_: whole[split])
    monkeypatch.setattr("timm.data.readers.reader_hfds.datasets.load_dataset", lambda *_, split, **__: whole[split])
    module = ImageDataModule(name="hfds/mine", image_size=8, batch_size=4, num_workers=0, augment=Off())
    assert module.class_names == ("even", "odd")
    assert (len(module.train_split), len(module.val_split)) == (18, 2)
    mean, std = torch.tensor(module.mean)[:, None, None], torch.tensor(module.std)[:, None, None]
    numbers = [
        round(float((image * std + mean).mean() * 255 / 10))
        for batch, targets in module.test_dataloader()
        for image, target in zip(batch, targets, strict=True)
        if int(target) == round(float((image * std + mean).mean() * 255 / 10)) % 2
    ]
    assert numbers == list(range(20))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_stream_goes_on_inside_an_epoch(packed: Path, workers: int) -> None:
    whole = load(stream_of(packed), workers, epoch=2)
    for passed in (1, 4, len(whole) - 1):
        stream = stream_of(packed)
        stream.start = (2, passed)
        rest = load(stream, workers, epoch=2)
        assert [images.tolist() for images, _ in rest] == [images.tolist() for images, _ in whole[passed:]]
        assert len(load(stream, workers, epoch=3)) == len(whole)


def test_augmentation_follows_the_image_not_its_place(packed: Path) -> None:
    def loaded(**options: Any) -> dict[int, torch.Tensor]:
        module = ImageDataModule(
            name=f"wds/{packed}", image_size=8, val_fraction=0, num_workers=0, augment=Small(), **options
        )
        images, _ = next(iter(module.train_dataloader()))
        # Every pixel of an image but the black border that the crop brings in holds the image's number.
        return {round(float(image.max()), 3): image for image in images}

    few, many = loaded(batch_size=8, shuffle_buffer=1), loaded(batch_size=16, shuffle_buffer=1)
    assert set(few) < set(many)
    assert all(torch.equal(image, many[number]) for number, image in few.items())
    assert any(image.min() != image.max() for image in many.values())


def test_corrupt_images_in_shards_are_counted_up_to_the_limit(packed: Path, tmp_path: Path) -> None:
    shutil.copytree(packed, tmp_path / "shards")
    shards = shards_of(read_index(str(packed)), "train", str(tmp_path / "shards"), "RGB")
    path = tmp_path / "shards" / shards.files[0]
    data = bytearray(path.read_bytes())
    place = data.index(b"IHDR")
    data[place : place + 4] = b"XXXX"
    path.write_bytes(bytes(data))
    for limit in (0, 1):
        module = ImageDataModule(
            name=f"wds/{tmp_path / 'shards'}",
            image_size=8,
            batch_size=4,
            val_fraction=0,
            num_workers=0,
            max_corrupt=limit,
        )
        if limit:
            assert sum(len(targets) for _, targets in module.train_dataloader()) == TRAIN
        else:
            with refuses(DataError):
                list(module.train_dataloader())
