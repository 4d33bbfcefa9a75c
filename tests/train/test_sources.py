"""Every data source, and what is said when one does not fit."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dynaconv.errors import DataError
from dynaconv.train.data import embedded
from dynaconv.train.data.image_file import open_image
from dynaconv.train.data.source import stratified_split
from dynaconv.train.data.sources import absolute_location, load_source, missing_folder
from tests.messages import refuses
from tests.train.helpers import write_folder, write_image
from tests.train.test_idx import idx_bytes


def write_fashion(folder: Path, train: int = 20, test: int = 10) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, count in (("train", train), ("t10k", test)):
        images = torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8)
        labels = torch.arange(count, dtype=torch.uint8) % 10
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels)))
    return folder


def test_digits_are_split_by_class_and_never_overlap() -> None:
    source = load_source("digits")
    assert len(source.train) + len(source.test) == 1797
    assert len(source.test) == 450
    share = torch.bincount(source.test.targets) / torch.bincount(torch.cat([source.train.targets, source.test.targets]))
    assert share.min() > 0.24
    assert share.max() < 0.26
    pixels = torch.cat([source.train.images, source.test.images]).double() / 255
    assert float(pixels.mean()) == pytest.approx(source.mean[0], abs=1e-3)
    assert float(pixels.std()) == pytest.approx(source.std[0], abs=1e-3)


def test_stratified_split_depends_on_the_seed_alone() -> None:
    targets = [0] * 10 + [1] * 30
    first, second = stratified_split(targets, 0.2, seed=5)
    assert (first, second) == stratified_split(targets, 0.2, seed=5)
    assert second != stratified_split(targets, 0.2, seed=6)[1]
    assert sorted(first + second) == list(range(40))
    assert [sum(i < 10 for i in second), sum(i >= 10 for i in second)] == [2, 6]


@pytest.mark.parametrize("inner", ["", "FashionMNIST/raw"])
def test_fashion_mnist_is_read_from_a_folder(tmp_path: Path, inner: str) -> None:
    write_fashion(tmp_path / inner)
    source = load_source("fashion-mnist", data_dir=tmp_path)
    assert source.train.images.shape == (20, 1, 28, 28)
    assert source.test.targets.tolist() == list(range(10))
    assert source.class_names[9] == "ankle boot"


def test_fashion_mnist_is_found_where_debian_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "DEBIAN_FASHION_MNIST", write_fashion(tmp_path))
    assert len(load_source("fashion-mnist").train) == 20


def test_fashion_mnist_that_cannot_be_downloaded_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import FashionMNIST

    def fail(self: FashionMNIST) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried ...")

    monkeypatch.setattr(embedded, "DEBIAN_FASHION_MNIST", tmp_path / "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(FashionMNIST, "download", fail)
    with refuses(DataError, "data_dir"):
        load_source("fashion-mnist")


def test_fashion_mnist_folder_that_lacks_a_file_names_it(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with refuses(DataError, "t10k-labels-idx1-ubyte"):
        load_source("fashion-mnist", data_dir=tmp_path)
    with refuses(DataError):
        load_source("fashion-mnist", data_dir=tmp_path / "nowhere")


@pytest.mark.parametrize("held_out", ["test", "val", "validation"])
def test_image_folder_with_splits(tmp_path: Path, held_out: str) -> None:
    source = load_source(str(write_folder(tmp_path, ("train", held_out))))
    assert source.class_names == ("dark", "light")
    assert (len(source.train), len(source.test)) == (12, 12)
    assert source.validation is None
    image, target = source.test[11]
    assert (image.mode, target) == ("RGB", 1)


def test_image_folder_with_test_and_validation(tmp_path: Path) -> None:
    write_folder(tmp_path, ("train", "test"))
    write_folder(tmp_path, ("val",), images=2)
    source = load_source("folder", data_dir=tmp_path)
    assert (len(source.test), len(source.validation or ())) == (12, 4)


def test_image_folder_without_splits_is_split_by_a_seed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, ("",), images=10)
    source, again = (load_source(str(folder), test_fraction=0.3, split_seed=1) for _ in range(2))
    assert (len(source.train), len(source.test)) == (14, 6)
    assert source.test.paths == again.test.paths
    assert not set(source.train.paths) & set(source.test.paths)
    assert source.test.paths != load_source(str(folder), test_fraction=0.3, split_seed=2).test.paths


def test_image_folder_as_greyscale(tmp_path: Path) -> None:
    source = load_source(str(write_folder(tmp_path)), channels=1)
    assert source.train[0][0].mode == "L"
    assert (source.channels, len(source.mean)) == (1, 1)


def test_timm_names_go_through_timms_factory(tmp_path: Path) -> None:
    write_folder(tmp_path, ("train", "validation"))
    source = load_source("torch/image_folder", data_dir=tmp_path, image_size=32)
    assert (len(source.train), len(source.test)) == (12, 12)
    assert source.class_names == ("dark", "light")
    image, target = source.train[11]
    assert (image.mode, target) == ("RGB", 1)


@pytest.mark.parametrize("name", ["torch/nonsense", "hfds/nobody/nothing"])
def test_a_timm_name_that_fails_is_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with refuses(DataError, name):
        load_source(name, data_dir=tmp_path)
    assert not capsys.readouterr().out


def test_an_unknown_name_lists_the_nearest() -> None:
    with refuses(DataError, "fashion_mnist"):
        load_source("fashion_mnist")


def test_a_name_without_a_folder_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with refuses(DataError, "images"):
        load_source("images")
    write_image(tmp_path / "a.png", 3)
    with refuses(DataError, "a.png"):
        load_source("a.png")
    with refuses(DataError, "a.png"):
        load_source(str(tmp_path / "a.png"))


def test_paths_are_made_absolute_and_names_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    assert absolute_location("images", None) == (str(tmp_path / "images"), None)
    assert absolute_location("torch/cifar10", "data") == ("torch/cifar10", str(tmp_path / "data"))
    assert absolute_location("digits", None) == ("digits", None)
    assert missing_folder("folder", str(tmp_path / "images")) is None
    assert missing_folder("./gone", None) == "./gone"


def test_pixels_of_unknown_range_are_refused(tmp_path: Path) -> None:
    for values in (
        np.full((2, 3), 70000, dtype=np.int32),
        np.full((2, 3), -1, dtype=np.int32),
        np.ones((2, 3), dtype=np.float32),
    ):
        Image.fromarray(values).save(tmp_path / "x.tif")
        with refuses(DataError, "x.tif"):
            open_image(tmp_path / "x.tif", "L")
    with refuses(DataError):
        open_image(tmp_path, "L")


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "tRNS"])
def test_what_is_transparent_becomes_white(tmp_path: Path, kind: str) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (30, 30, 30, 255))
    path = tmp_path / "x.png"
    if kind == "P":
        indexed = Image.new("P", (2, 1))
        indexed.putpalette([0, 0, 0, 30, 30, 30])
        indexed.putpixel((1, 0), 1)
        indexed.save(path, transparency=0)
    elif kind == "tRNS":
        image.convert("RGB").save(path, transparency=(0, 0, 0))
    else:
        image.convert(kind).save(path)
    assert np.asarray(open_image(path, "L")).tolist() == [[255, 30]]
    assert np.asarray(open_image(path, "RGB")).tolist() == [[[255] * 3, [30] * 3]]


def test_a_folder_with_the_name_of_an_image_is_no_image(tmp_path: Path) -> None:
    write_folder(tmp_path, ("train", "val"))
    (tmp_path / "train" / "dark" / "more.png").mkdir()
    source = load_source(str(tmp_path))
    assert len(source.train) == 12
    assert source.note.endswith("has no test/: val/ is the test set.")


def test_digits_in_colour_are_refused() -> None:
    with refuses(DataError, "channels"):
        load_source("digits", channels=3)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with refuses(DataError, "nowhere"):
        load_source(str(tmp_path / "nowhere"))
    with refuses(DataError, "data_dir"):
        load_source("folder")


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with refuses(DataError):
        load_source(str(tmp_path))
    (tmp_path / "cats").mkdir()
    with refuses(DataError, "cats"):
        load_source(str(tmp_path))
    (tmp_path / "dogs").mkdir()
    # It lists the endings that Pillow reads here.
    with pytest.raises(DataError, match="cats"):
        load_source(str(tmp_path))


def test_a_folder_with_train_alone_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, ("train",))
    with refuses(DataError):
        load_source(str(tmp_path))


def test_a_class_that_training_lacks_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write_image(tmp_path / "test" / "striped" / "0.png", 3)
    with refuses(DataError, "striped"):
        load_source(str(tmp_path))


@pytest.mark.parametrize(
    "raw", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n" + bytes(40)], ids=["empty", "text", "PNG"]
)
def test_a_corrupt_image_is_named(tmp_path: Path, raw: bytes) -> None:
    write_folder(tmp_path)
    broken = tmp_path / "train" / "dark" / "0.png"
    broken.write_bytes(raw)
    with refuses(DataError, str(broken)):
        load_source(str(tmp_path)).train[0]


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    broken = tmp_path / "train" / "light" / "3.png"
    broken.write_bytes(broken.read_bytes()[:-200])
    with refuses(DataError):
        load_source(str(tmp_path)).train[9]
