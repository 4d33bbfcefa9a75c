"""A folder of images with one sub-folder a class."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from dynaconv.errors import CorruptImageError, DataError, listed
from dynaconv.train.data.source import Source, stratified_split

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_HELD_OUT = ("test", "val", "validation", "valid")
_SMALL_SIDE = 64


def open_image(path: Path, mode: Literal["L", "RGB"]) -> Image.Image:
    """Open one image file, decoded and converted to ``mode`` by `convert_image`.

    Raises:
        DataError: The file is missing, or has pixels of unknown range.
        CorruptImageError: It is not an image that Pillow can decode.
    """
    try:
        with Image.open(path) as image:
            return convert_image(image, mode)
    except DataError as error:
        raise DataError(f"the image {path} {error}") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a directory, not an image file.") from error
    except FileNotFoundError as error:
        raise DataError(f"there is no image file {path}.") from error
    # Pillow's decoders raise SyntaxError and ValueError for some damaged files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CorruptImageError(
            f"the image {path} is corrupt or not an image ({error}); mend or remove the file."
        ) from error


def convert_image(image: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
    """Convert an image of any Pillow mode to 8-bit grey or colour.

    What is transparent becomes white, as on paper. Grey values of 16 bits are divided by 256, where Pillow would clip
    them at 255.

    Raises:
        DataError: The pixels are floating-point numbers, or integers beyond 16 bits.
    """
    if image.mode == "F":
        raise DataError("has floating-point pixels, whose range is not known; convert it to 8 or 16 bits.")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.size and not 0 <= values.min() <= values.max() < 2**16:
            raise DataError(
                f"has grey values from {values.min()} to {values.max()}, beyond 16 bits; convert it to 8 or 16 bits."
            )
        return Image.fromarray((values // 256).astype(np.uint8)).convert(mode)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        coloured = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert(mode)
    return image.convert(mode)


@dataclass(frozen=True, kw_only=True)
class FolderImages:
    """Image files and their classes, opened one at a time."""

    paths: tuple[Path, ...]
    targets: tuple[int, ...]
    mode: Literal["L", "RGB"]

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
    folder: Path, *, channels: int | None, image_size: int | None, test_fraction: float, split_seed: int
) -> Source:
    """A folder of images: ``train/`` beside ``test/`` or ``val/``, or one folder that a seed splits.

    Args:
        folder: Holds ``train/CLASS/*`` and ``test|val|validation/CLASS/*``, or ``CLASS/*`` alone. With both a
            ``test/`` and a ``val/`` the second is used for validation.
        channels: 1 to read the images as greyscale, 3 (or ``None``) as colour.
        image_size: Side length of the network's input; decides the default augmentation.
        test_fraction: Share of each class that is held out when the folder defines no test set.
        split_seed: Seed of that split.

    Raises:
        DataError: The folder is missing or empty, or its splits do not hold the same classes.
    """
    if folder.is_file():
        raise DataError(f"{folder} is a file; an image folder has one sub-folder a class.")
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; an image folder has one sub-folder a class.")
    mode: Literal["L", "RGB"] = "L" if channels == 1 else "RGB"
    train_folder = folder / "train"
    validation, note = None, ""
    if train_folder.is_dir():
        held_out = [folder / name for name in _HELD_OUT if (folder / name).is_dir()]
        if not held_out:
            raise DataError(f"{folder} has train/ but none of {listed(f'{n}/' for n in _HELD_OUT)}; add one.")
        names = class_folders(train_folder)
        train = _scan(train_folder, names, mode)
        test = _scan(held_out[0], names, mode)
        if held_out[0].name == "test" and len(held_out) > 1:
            validation = _scan(held_out[1], names, mode)
        if held_out[0].name != "test":
            note = f"{folder} has no test/: {held_out[0].name}/ is the test set."
    else:
        names = class_folders(folder)
        everything = _scan(folder, names, mode)
        first, second = stratified_split(everything.targets, test_fraction, seed=split_seed)
        if not second:
            raise DataError(f"{folder} has one image a class, too few to hold any out for testing; add images.")
        train, test = everything.subset(first), everything.subset(second)
    grey = mode == "L"
    size = image_size or 224
    return Source(
        name=str(folder),
        train=train,
        test=test,
        validation=validation,
        class_names=names,
        channels=1 if grey else 3,
        mean=(sum(IMAGENET_MEAN) / 3,) if grey else IMAGENET_MEAN,
        std=(sum(IMAGENET_STD) / 3,) if grey else IMAGENET_STD,
        image_size=size,
        style="small" if size <= _SMALL_SIDE else "photo",
        note=note,
    )


def class_folders(folder: Path) -> tuple[str, ...]:
    """Return the sorted names of the sub-folders, each a class."""
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if len(names) < 2:
        found = f"only {names[0]!r}" if names else "none"
        raise DataError(f"{folder} must hold one sub-folder of images for each of at least two classes; found {found}.")
    return names


def _scan(folder: Path, names: Sequence[str], mode: Literal["L", "RGB"]) -> FolderImages:
    found = class_folders(folder)
    if unknown := [name for name in found if name not in names]:
        raise DataError(f"{folder} holds the class {unknown[0]!r}, which the training folder does not have.")
    paths: list[Path] = []
    targets: list[int] = []
    for target, name in enumerate(names):
        found_here = (folder / name).rglob("*")
        images = sorted(path for path in found_here if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
        if not images and folder.name not in _HELD_OUT:
            raise DataError(f"the class folder {folder / name} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}).")
        paths += images
        targets += [target] * len(images)
    if not paths:
        raise DataError(f"{folder} holds no image in any of its class folders; add images or remove the folder.")
    return FolderImages(paths=tuple(paths), targets=tuple(targets), mode=mode)
