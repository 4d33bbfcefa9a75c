"""Reads an image from a file, bytes or Pillow as 8-bit greyscale or colour, in upright orientation."""

import contextlib
import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from dynaconv.errors import CorruptImageError, DataError

Mode = Literal["L", "RGB"]
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"),
    *(".pbm", ".pnm", ".jpe", ".jfif", ".mpo", ".jp2", ".tga", ".avif", ".heic", ".heif"),
)
"""Suffixes of image files, in lower case. Which of them Pillow can open depends on its build; see `is_readable`."""
# Pillow's decoders raise SyntaxError, ValueError and struct.error for some damaged files.
_UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)


def is_readable(suffix: str) -> bool:
    """Return whether Pillow can open files with this suffix; that of a plugin, such as HEIC, once it is registered."""
    return Image.registered_extensions().get(suffix.lower()) in Image.OPEN


def open_image(path: Path, mode: Mode) -> Image.Image:
    """Open one image file, decoded and converted to ``mode`` by `convert_image`.

    Raises:
        DataError: The file cannot be opened, or its pixels have an unknown range.
        CorruptImageError: Pillow cannot decode the file.
    """
    with _opened(path) as image:
        return convert_image(image, mode)


def check_image(path: Path) -> None:
    """Verify an image file without decoding it, if its format allows that; raises the errors of `open_image`."""
    with _opened(path) as image:
        image.verify()


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise DataError(f"there is no image file {path}.") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a directory, not an image file.") from error
    except OSError as error:
        raise DataError(f"cannot read the image file {path}: {error.strerror}.") from error
    with file, named_in_errors(f"the image {path}", "repair or remove the file"), Image.open(file) as image:
        yield image


def decode_image(data: bytes, mode: Mode) -> Image.Image:
    """As `open_image`, from the bytes of a file. Call it inside `named_in_errors`."""
    with Image.open(io.BytesIO(data)) as image:
        return convert_image(image, mode)


@contextmanager
def named_in_errors(name: str | Callable[[], str], advice: str) -> Iterator[None]:
    """Name the image in the message of a `DataError`, and turn Pillow's errors into `CorruptImageError`.

    Args:
        name: Name of the image, or a function that returns it; the message starts with it.
        advice: What to do about a corrupt image.

    Raises:
        DataError: The block raises one; the message starts with the name.
        CorruptImageError: Pillow cannot decode the image.
    """
    try:
        yield
    except CorruptImageError:
        raise
    except _UNREADABLE as error:
        name = name() if callable(name) else name
        if isinstance(error, DataError):
            raise DataError(f"{name} {error}") from error
        # Pillow's message has the repr of the opened file.
        reason = "no known format" if isinstance(error, UnidentifiedImageError) else error
        raise CorruptImageError(f"{name} is corrupt or not an image ({reason}); {advice}.") from error


def convert_image(image: Image.Image, mode: Mode) -> Image.Image:
    """Convert an image of any Pillow mode to 8-bit greyscale or colour.

    A photograph is rotated by its EXIF orientation. Transparent pixels become white. Grey values of 16 bits are divided
    by 256; Pillow would clip them at 255.

    A file of 32-bit or signed integers does not define its white level: if no value is above 255, the values are read
    as 8 bits, else as 16 bits.

    Raises:
        DataError: The pixels are floating-point numbers, integers beyond 16 bits, or of a mode without a conversion.
    """
    if image.mode == "F":
        raise DataError("has floating-point pixels, whose range is unknown; convert it to 8 or 16 bits.")
    if image.mode == "LAB":
        raise DataError("has pixels in the colour space LAB, which Pillow does not convert; save it as RGB.")
    declared = image.mode != "I" or image.format == "PPM"
    image.load()
    image = _upright(image)
    if image.mode.startswith("I"):
        return _to_8_bits(image, declared=declared).convert(mode)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("RGBA", "RGBa", "LA", "PA") or "transparency" in image.info:
        coloured = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert(mode)
    return image.convert(mode)


def _upright(image: Image.Image) -> Image.Image:
    # An image with damaged EXIF data is not rotated, as in other programs.
    with contextlib.suppress(*_UNREADABLE, LookupError, TypeError):
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            return ImageOps.exif_transpose(image)
    return image


def _to_8_bits(image: Image.Image, *, declared: bool) -> Image.Image:
    """Scale integers to 8 bits.

    Args:
        image: Image in one of Pillow's modes ``I``, ``I;16``, ...
        declared: Whether the file format defines white as 65535; otherwise the values decide.
    """
    values = np.asarray(image).astype(np.int64)
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if low < 0 or high >= 2**16:
        raise DataError(f"has grey values from {low} to {high}, beyond 16 bits; convert it to 8 or 16 bits.")
    grey = (values // 256 if declared or high > 255 else values).astype(np.uint8)
    if isinstance(transparent := image.info.get("transparency"), int):
        grey[values == transparent] = 255
    return Image.fromarray(grey)
