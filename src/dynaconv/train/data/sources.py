"""Finds a data source by its name."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynaconv.errors import DataError, listed, nearest_names
from dynaconv.train.data.embedded import digits, fashion_mnist
from dynaconv.train.data.fashion_hard import fashion_mnist_hard
from dynaconv.train.data.folder import image_folder
from dynaconv.train.data.glyph_bank import GlyphOptions
from dynaconv.train.data.glyphs import glyphs, glyphs_mini
from dynaconv.train.data.shard_source import shard_source
from dynaconv.train.data.shards import is_remote, shard_location
from dynaconv.train.data.source import Source
from dynaconv.train.data.source_options import DrawnOptions, read_options
from dynaconv.train.data.spoken import SpokenOptions, spoken_words
from dynaconv.train.data.timm_source import TIMM_PREFIXES, timm_dataset

DRAWN_SOURCES = ("glyphs", "glyphs-mini", "spoken-words", "fashion-mnist-hard")
"""Sources whose training images are drawn anew every time; ``data.options`` has their options."""
GREY_SOURCES = ("digits", "fashion-mnist", *DRAWN_SOURCES)
SOURCE_NAMES = (*GREY_SOURCES, "folder")
SHARDS_PREFIX = "wds/"


def is_folder_name(name: str) -> bool:
    """Return whether `load_source` reads ``name`` as a path to an image folder."""
    known = name in SOURCE_NAMES or name.startswith(TIMM_PREFIXES)
    return not known and ("/" in name or Path(name).expanduser().is_dir())


def absolute_location(name: str, data_dir: str | None) -> tuple[str, str | None]:
    """Return ``name`` and ``data_dir`` with absolute paths, which are valid in any working directory."""
    if is_folder_name(name):
        name = str(_absolute(name))
    elif name.startswith(SHARDS_PREFIX) and data_dir is None and not is_remote(shard_location(name, None)):
        name = f"{SHARDS_PREFIX}{_absolute(shard_location(name, None))}"
    return name, data_dir if data_dir is None or is_remote(data_dir) else str(_absolute(data_dir))


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(Path(path).expanduser()))


def missing_folder(name: str, data_dir: str | None) -> str | None:
    """Return the folder that a data source reads if it does not exist, else ``None``."""
    folder = name if is_folder_name(name) else data_dir
    if name.startswith(SHARDS_PREFIX):
        folder = shard_location(name, data_dir)
    if folder is None or is_remote(folder):
        return None
    return folder if not Path(folder).expanduser().is_dir() else None


def check_source_name(name: str) -> None:
    """Check that a name is that of a data source or a folder.

    Raises:
        DataError: It is neither; the message has the nearest names.
    """
    if name in SOURCE_NAMES or name.startswith(TIMM_PREFIXES) or is_folder_name(name):
        return
    reason = "it is a file" if Path(name).is_file() else "there is no such folder"
    raise DataError(
        f"unknown data set {name!r}; the nearest names are {listed(nearest_names(name, SOURCE_NAMES))}. "
        f"A path to an image folder is accepted too, but {reason}; so are timm names "
        f"({', '.join(f'{p}...' for p in TIMM_PREFIXES)})."
    )


def load_source(
    name: str,
    *,
    data_dir: Path | str | None = None,
    classes: int | None = None,
    channels: int | None = None,
    image_size: int | None = None,
    test_fraction: float | None = None,
    split_seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Source:
    """Find a data source by name.

    Args:
        name: ``"digits"``, ``"fashion-mnist"``, ``"glyphs"``, ``"glyphs-mini"``, ``"spoken-words"``,
            ``"fashion-mnist-hard"``, ``"folder"`` (with ``data_dir``), a path to an image folder, or a timm data set
            name such as ``"torch/cifar10"``. dynaconv itself reads ``"wds/..."``, with timm's index.
        data_dir: Folder of the data, for the sources that need it; for shards also a URL or command.
        classes: Number of classes, for timm data sets that do not list them.
        channels: 1 to read images as greyscale, 3 as colour; ``None`` leaves it to the source.
        image_size: Side length of the network's input; ``None`` leaves it to the source.
        test_fraction: Fraction held out of an image folder that has no test set, by default 0.2.
        split_seed: Seed of that split.
        options: Further options of the sources whose images are drawn anew.

    Raises:
        DataError: The name is unknown, its data cannot be read, or it does not take the options.
    """
    check_source_name(name)
    if options and name not in DRAWN_SOURCES:
        raise DataError(
            f"{name} takes no data.options; got {listed(options)}. They are for {listed(DRAWN_SOURCES, quote=False)}."
        )
    is_folder = name == "folder" or is_folder_name(name)
    if test_fraction is not None and not is_folder:
        raise DataError(f"{name} has test images, so data.test_fraction has no effect; leave it out.")
    if classes is not None and (is_folder or name in GREY_SOURCES):
        raise DataError(f"{name} lists its classes, so data.classes has no effect; leave it out.")
    if data_dir is not None and (name == "digits" or is_folder_name(name)):
        raise DataError(f"{name} needs no folder; leave data_dir={str(data_dir)!r} out.")
    if name.startswith(SHARDS_PREFIX):
        location = shard_location(name, None if data_dir is None else str(data_dir))
        return shard_source(
            name,
            location if is_remote(location) else str(Path(location).expanduser()),
            classes=classes,
            channels=channels,
            image_size=image_size,
        )
    if data_dir is not None and is_remote(str(data_dir)):
        raise DataError(
            f"data_dir={str(data_dir)!r} is not a folder; only the data sets wds/... read from a URL or command."
        )
    data_dir = None if data_dir is None else Path(data_dir).expanduser()
    if name in GREY_SOURCES:
        if channels not in (None, 1):
            raise DataError(f"{name} is greyscale; got channels={channels}, pass 1 or leave it out.")
        if name in DRAWN_SOURCES:
            return _drawn_source(name, data_dir, image_size, options)
        return digits() if name == "digits" else fashion_mnist(data_dir)
    if name.startswith(TIMM_PREFIXES):
        return timm_dataset(name, data_dir=data_dir, classes=classes, channels=channels, image_size=image_size)
    if name == "folder":
        if data_dir is None:
            raise DataError("the data source 'folder' needs data_dir, a folder with one sub-folder per class.")
        folder = data_dir
    else:
        folder = Path(name).expanduser()
    return image_folder(
        folder, channels=channels, image_size=image_size, test_fraction=test_fraction, split_seed=split_seed
    )


def _drawn_source(
    name: str, data_dir: Path | None, image_size: int | None, options: Mapping[str, Any] | None
) -> Source:
    if name == "glyphs":
        return glyphs(read_options(GlyphOptions, options, name), data_dir=data_dir, image_size=image_size)
    if name == "fashion-mnist-hard":
        drawn = read_options(DrawnOptions, options, name)
        return fashion_mnist_hard(drawn, data_dir=data_dir, image_size=image_size)
    if data_dir is not None:
        raise DataError(f"{name} is generated on this machine; leave data_dir={str(data_dir)!r} out.")
    if name == "glyphs-mini":
        return glyphs_mini(read_options(DrawnOptions, options, name), image_size=image_size)
    return spoken_words(read_options(SpokenOptions, options, name), image_size=image_size)
