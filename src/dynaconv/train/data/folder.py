"""Reads a folder of images with one sub-folder per class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dynaconv.errors import DataError, abbreviated, check_range, listed
from dynaconv.train.data.image_file import IMAGE_SUFFIXES, Mode, is_readable, open_image
from dynaconv.train.data.source import Source, photo_properties, stratified_split
from dynaconv.train.data.tree import LeftOut, class_folders, find_layout, images_below


@dataclass(frozen=True, kw_only=True)
class FolderImages:
    """Image files and their classes, opened one at a time."""

    paths: tuple[Path, ...]
    targets: tuple[int, ...]
    mode: Mode

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return open_image(self.paths[index], self.mode), self.targets[index]

    def subset(self, indices: Sequence[int]) -> "FolderImages":
        """Return the images at ``indices``."""
        return FolderImages(
            paths=tuple(self.paths[i] for i in indices), targets=tuple(self.targets[i] for i in indices), mode=self.mode
        )


def image_folder(
    folder: Path, *, channels: int | None, image_size: int | None, test_fraction: float | None, split_seed: int
) -> Source:
    """Return the data set in a folder: ``train/`` with ``test/`` or ``val/``, or class folders split at random.

    Args:
        folder: A folder that `find_layout` accepts. If it has both ``test/`` and ``val/``, ``val/`` is for validation.
        channels: 1 to read the images as greyscale, 3 (or ``None``) as colour.
        image_size: Side length of the network's input; it determines the default augmentation.
        test_fraction: Fraction of each class that is held out if the folder has no test set, in (0, 1); None for 0.2.
        split_seed: Seed of that split.

    Returns:
        The images; ``note`` says how they were read, and which files and folders are left out.

    Raises:
        DataError: The folder is missing or empty, a held-out split has a class that ``train/`` lacks, or
            ``test_fraction`` is out of range or given for a folder with a test set.
    """
    if folder.is_file():
        raise DataError(f"{folder} is a file; an image folder has one sub-folder per class.")
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; an image folder has one sub-folder per class.")
    mode: Mode = "L" if channels == 1 else "RGB"
    left_out = LeftOut()
    layout = find_layout(folder, left_out)
    validation, remark = None, ""
    if test_fraction is not None:
        check_range("data.test_fraction", test_fraction, 0, 1, open_low=True, open_high=True, error=DataError)
    if layout.splits:
        if test_fraction is not None:
            raise DataError(f"{folder} has test images, so data.test_fraction has no effect; leave it out.")
        train_folder = layout.splits["train"]
        classes = class_folders(train_folder, left_out)
        names = _checked_names(classes, train_folder)
        train = _read(classes, names, mode, left_out)
        held_out = [
            (path, _read_held_out(path, names, mode, left_out))
            for word in ("test", "validation")
            if (path := layout.splits.get(word)) is not None
        ]
        test = held_out[0][1]
        if len(held_out) > 1:
            validation = held_out[1][1]
        elif "test" not in layout.splits:
            remark = f" {layout.folder} has no test/: {held_out[0][0].name}/ is the test set."
    else:
        names = _checked_names(layout.classes, layout.folder)
        everything = _read(layout.classes, names, mode, left_out)
        first, second = stratified_split(everything.targets, test_fraction or 0.2, seed=split_seed)
        if not second:
            raise DataError(f"{folder} has one image per class, too few to hold any out for the test; add images.")
        train, test = everything.subset(first), everything.subset(second)
    counts = [(len(train), "training"), *([(len(validation), "validation")] if validation else []), (len(test), "test")]
    return Source(
        name=str(folder),
        train=train,
        test=test,
        validation=validation,
        random_test=not layout.splits,
        class_names=names,
        **photo_properties(channels, image_size),
        note=_describe(names, counts, str(left_out)) + remark,
    )


def _describe(names: Sequence[str], counts: Sequence[tuple[int, str]], left_out: str) -> str:
    images = listed((f"{count:,} {word}" for count, word in counts), quote=False)
    summary = f"{len(names):,} classes ({abbreviated(names, most=5)}), {images} images"
    return f"{summary}; left out: {left_out}." if left_out else f"{summary}."


def _checked_names(classes: Mapping[str, Path], folder: Path) -> tuple[str, ...]:
    if len(classes) < 2:
        found = f"only {next(iter(classes))!r}" if classes else "none"
        raise DataError(f"{folder} must have one sub-folder of images for each of at least two classes; found {found}.")
    return tuple(classes)


def _read_held_out(folder: Path, names: Sequence[str], mode: Mode, left_out: LeftOut) -> FolderImages:
    classes = class_folders(folder, left_out)
    if unknown := [name for name in classes if name not in names]:
        raise DataError(f"{folder} has the class {unknown[0]!r}, which the training folder does not have.")
    found = _read(classes, names, mode, left_out, all_classes=False)
    if not found.paths:
        raise DataError(f"{folder} has no image in any of its class folders; add images or remove the folder.")
    return found


def _read(
    classes: Mapping[str, Path], names: Sequence[str], mode: Mode, left_out: LeftOut, *, all_classes: bool = True
) -> FolderImages:
    paths: list[Path] = []
    targets: list[int] = []
    for target, name in enumerate(names):
        images = images_below(classes[name], left_out) if name in classes else []
        if not images and all_classes:
            suffixes = ", ".join(filter(is_readable, IMAGE_SUFFIXES))
            raise DataError(f"the class folder {classes[name]} has no image ({suffixes}).")
        paths += images
        targets += [target] * len(images)
    return FolderImages(paths=tuple(paths), targets=tuple(targets), mode=mode)
