"""Which images of a folder tree are read, under which splits and classes, and what is said of the rest."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from dynaconv.errors import DataError
from dynaconv.train.data.folder import FolderImages
from dynaconv.train.data.image_file import IMAGE_SUFFIXES, is_readable
from dynaconv.train.data.pack import pack_folder
from dynaconv.train.data.source import Source
from dynaconv.train.data.sources import load_source
from dynaconv.train.run import fit, resume
from tests.messages import refuses
from tests.train.helpers import tiny_config, write_folder, write_image

LITTER = (
    ".DS_Store",
    "._0.png",
    "Thumbs.db",
    "desktop.ini",
    ".ipynb_checkpoints/0-checkpoint.png",
    "__MACOSX/dark/._0.png",
    "@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg",
    "lost+found/0.png",
    "$RECYCLE.BIN/S-1-5/0.png",
    ".git/objects/0.png",
    ".thumbnails/normal/0.png",
    ".Trash-1000/files/0.png",
    "System Volume Information/0.png",
)


def read(folder: Path) -> Source:
    return load_source(str(folder), image_size=32)


def contents(source: Source) -> dict[str, list[tuple[str, str]]]:
    """Names and classes of the images of each split, whatever folder they are in."""
    splits = {"train": source.train, "validation": source.validation, "test": source.test}
    return {
        word: [(path.name, source.class_names[target]) for path, target in zip(split.paths, split.targets, strict=True)]
        for word, split in splits.items()
        if split is not None
    }


@pytest.mark.parametrize("splits", [("",), ("train", "test")])
def test_what_file_managers_and_tools_leave_is_no_image(tmp_path: Path, splits: tuple[str, ...]) -> None:
    clean, folder = (write_folder(tmp_path / name, splits) for name in ("clean", "littered"))
    before = read(folder)
    assert before.note.endswith("images.")
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    inner = folder / splits[0] / "dark" / "more"
    inner.mkdir()
    for place in [*folders, inner]:
        for name in LITTER:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / splits[0] / "light" / "1.png", place / name)
    after = read(folder)
    assert contents(after) == contents(before) == contents(read(clean))
    assert after.class_names == ("dark", "light")
    count = len(LITTER) * (len(folders) + 1)
    assert after.note.endswith(f"images; left out: {count} files ({count} hidden).")


@pytest.mark.parametrize(
    ("train", "test"), [("Train", "Val"), ("Training", "Testing"), ("TRAIN", "TEST"), ("train", "valid")]
)
@pytest.mark.parametrize("above", ["", "images"])
def test_splits_are_known_by_any_usual_name(tmp_path: Path, train: str, test: str, above: str) -> None:
    write_folder(tmp_path / above, (train,), images=3)
    write_folder(tmp_path / above, (test,), images=2)
    source = read(tmp_path)
    assert source.class_names == ("dark", "light")
    assert (len(source.train), len(source.test)) == (6, 4)
    named = f"{tmp_path / above} has no test/: {test}/ is the test set."
    assert source.note == "2 classes (dark, light), 6 training and 4 test images." + (
        f" {named}" if test[0].lower() == "v" else ""
    )
    index = pack_folder(tmp_path, tmp_path / "shards")
    assert set(index["splits"]) == {"train", "validation" if test[0].lower() == "v" else "test"}


def test_what_is_beside_the_splits_and_the_classes_is_told(tmp_path: Path) -> None:
    write_folder(tmp_path, ("train", "Valid", "test", "extra", "unlabelled"), images=1)
    write_image(tmp_path / "train" / "0.png", 3)
    (tmp_path / "labels.csv").touch()
    (tmp_path / "test" / "dark" / "notes.txt").touch()
    source = read(tmp_path)
    assert source.note == (
        "2 classes (dark, light), 2 training, 2 validation and 2 test images; left out: 3 files (2 without an image "
        "extension, 1 outside the class folders) and the folders extra, unlabelled."
    )


def test_one_folder_around_everything_is_looked_into(tmp_path: Path) -> None:
    write_folder(tmp_path / "flowers", ("",), images=5)
    assert contents(read(tmp_path)) == contents(read(tmp_path / "flowers"))
    write_folder(tmp_path / "flowers", ("train", "test"))
    (tmp_path / "papers").mkdir()
    source = read(tmp_path)
    assert contents(source) == contents(read(tmp_path / "flowers"))
    assert source.note.endswith("left out: the folders papers, dark, light.")
    write_folder(tmp_path / "animals", ("train", "test"))
    with refuses(DataError, "animals"):
        read(tmp_path)


def test_a_class_may_be_called_as_a_split(tmp_path: Path) -> None:
    for name in ("plane", "train", "test"):
        for index in range(3):
            write_image(tmp_path / name / f"{index}.png", index)
    assert read(tmp_path).class_names == ("plane", "test", "train")


@pytest.mark.parametrize(
    "splits", [("train", "Train", "test"), ("train", "val", "valid"), ("Training",), ("test", "val")], ids=" ".join
)
def test_splits_that_do_not_fit_are_named(tmp_path: Path, splits: tuple[str, ...]) -> None:
    write_folder(tmp_path, splits)
    with refuses(DataError):
        read(tmp_path)


def test_splits_in_a_folder_of_their_own_are_read(tmp_path: Path) -> None:
    write_folder(tmp_path, ("a/train", "a/test"))
    assert read(tmp_path).class_names == ("dark", "light")


def test_splits_inside_the_classes_are_refused(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for split in ("Train", "Val"):
            write_image(tmp_path / name / split / "0.png", 3)
    with refuses(DataError, "cat/Train"):
        read(tmp_path)


@pytest.mark.usefixtures("own_environment")
@pytest.mark.parametrize("splits", [("",), ("train", "test")])
@pytest.mark.parametrize("out", [None, "out", "runs/demo/static"])
def test_a_run_is_no_class_of_the_data_it_lies_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, splits: tuple[str, ...], out: str | None
) -> None:
    folder = write_folder(tmp_path / "images", splits)
    monkeypatch.chdir(folder)
    before = contents(read(folder))
    config = tiny_config(data={"name": ".", "image_size": 32, "batch_size": 4, "num_workers": 0, "val_fraction": 0})
    result = fit(config, out=out)
    # As a demonstration does, beside its runs.
    shutil.copy(result.directory / "curves.png", result.directory.parents[0] / "curves.png")
    source = read(folder)
    assert contents(source) == before
    assert f"the folder {'out' if out == 'out' else 'runs'}" in source.note
    (result.directory / "summary.json").unlink()
    assert resume(result.directory).summary["epochs"] == 2


def test_a_run_inside_a_class_is_passed_over(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    run = folder / "train" / "dark" / "attempt"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").touch()
    write_image(run / "curves.png", 3)
    source = read(folder)
    assert len(source.train) == 12
    assert source.note.endswith("left out: the folder attempt (with runs of dynaconv).")


def test_links_are_followed_once(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images")
    elsewhere = write_folder(tmp_path / "elsewhere", ("",), images=4)
    dark = folder / "train" / "dark"
    (dark / "more").symlink_to(elsewhere / "light")
    (dark / "again.png").symlink_to(elsewhere / "dark" / "3.png")
    (folder / "train" / "striped").symlink_to(elsewhere / "dark")
    for name, target in (("self", dark), ("root", "/"), ("up", folder / "train")):
        (dark / name).symlink_to(target)
    (dark / "ring").symlink_to(dark / "ring")
    (dark / "gone.png").symlink_to(tmp_path / "nothing")
    # A link into another class, and back from there.
    (elsewhere / "light" / "back").symlink_to(dark)
    source = read(folder)
    assert source.class_names == ("dark", "light", "striped")
    assert isinstance(source.train, FolderImages)
    assert [source.train.targets.count(target) for target in range(3)] == [6 + 4 + 1, 6, 4]
    assert source.note.endswith("left out: 6 files (4 linked to a folder around it, 2 linked to nothing).")


@pytest.mark.parametrize("change", [str.upper, str.lower, str.title], ids=lambda change: change.__name__)
def test_every_image_extension_is_read(tmp_path: Path, change: Callable[[str], str]) -> None:
    folder = write_folder(tmp_path, images=1)
    unreadable = [suffix for suffix in IMAGE_SUFFIXES if not is_readable(suffix)]
    for suffix in IMAGE_SUFFIXES:
        path = folder / "train" / "dark" / f"image{change(suffix)}"
        if suffix in unreadable:
            path.touch()
        else:
            Image.new("RGB", (8, 8), (9, 9, 9)).convert("1" if suffix == ".pbm" else "RGB").save(path)
    source = read(folder)
    assert len(source.train) == 2 + len(IMAGE_SUFFIXES) - len(unreadable)
    assert all(source.train[index][0].size in ((8, 8), (20, 14)) for index in range(len(source.train)))
    for suffix in unreadable:
        assert f"1 of type {suffix}, which Pillow cannot open here" in source.note
    index = pack_folder(folder, tmp_path / "shards", verify=True)
    packed = load_source(f"wds/{tmp_path / 'shards'}", image_size=32)
    assert len(packed.train) == index["splits"]["train"]["num_samples"] == len(source.train)


def test_an_extension_that_pillow_cannot_open_here_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path)
    for index in range(2):
        (folder / "train" / "dark" / f"{index}.avif").touch()
    monkeypatch.delitem(Image.EXTENSION, ".avif", raising=False)
    assert read(folder).note.endswith("left out: 2 files (2 of type .avif, which Pillow cannot open here).")


def test_many_classes_are_abbreviated(tmp_path: Path) -> None:
    for number in range(1200):
        for split in ("train", "test"):
            (tmp_path / split / f"c{number:04d}").mkdir(parents=True)
            os.close(os.open(tmp_path / split / f"c{number:04d}" / "0.png", os.O_CREAT))
    assert read(tmp_path).note == (
        "1,200 classes (c0000, c0001, c0002, c0003, c0004 and 1,195 more), 1,200 training and 1,200 test images."
    )
