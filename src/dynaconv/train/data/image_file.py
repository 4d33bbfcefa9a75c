"""One image: from a file, bytes or Pillow to 8-bit grey or colour, upright, whatever it was saved as."""

import contextlib
import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps

from dynaconv.errors import CorruptImageError, DataError

Mode = Literal["L", "RGB"]
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"),
    *(".pbm", ".pnm", ".jpe", ".jfif", ".mpo", ".jp2", ".tga", ".avif", ".heic", ".heif"),
)
"""Endings of image files, in lower case. Which of them Pillow can open depends on its build; see `is_readable`."""
# Pillow's decoders raise SyntaxError, ValueError and struct.error for some damaged files.
_UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)


def is_readable(suffix: str) -> bool:
    """Whether Pillow can open files with this ending here; a plugin, as for HEIC, counts once it is registered."""
    return Image.registered_extensions().get(suffix.lower()) in Image.OPEN


def open_image(path: Path, mode: Mode) -> Image.Image:
    """Open one image file, decoded and converted to ``mode`` by `convert_image`.

    Raises:
        DataError: The file cannot be opened, or has pixels of unknown range.
        CorruptImageError: It is not an image that Pillow can decode.
    """
    with _opened(path) as image:
        return convert_image(image, mode)


def check_image(path: Path) -> None:
    """Look at an image file without decoding it, as far as its format allows; raises as `open_image`."""
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
    with file, named_in_errors(f"the image {path}", "mend or remove the file"), Image.open(file) as image:
        yield image


def decode_image(data: bytes, mode: Mode) -> Image.Image:
    """As `open_image`, from the bytes of a file, inside `named_in_errors`."""
    with Image.open(io.BytesIO(data)) as image:
        return convert_image(image, mode)


@contextmanager
def named_in_errors(what: str, advice: str) -> Iterator[None]:
    """Begin the message of a `DataError` with ``what``, and make a `CorruptImageError` of what Pillow raises.

    Args:
        what: Names the image.
        advice: What to do about a corrupt one.

    Raises:
        DataError, CorruptImageError: As said.
    """
    try:
        yield
    except CorruptImageError:
        raise
    except DataError as error:
        raise DataError(f"{what} {error}") from error
    except _UNREADABLE as error:
        raise CorruptImageError(f"{what} is corrupt or not an image ({error}); {advice}.") from error


def convert_image(image: Image.Image, mode: Mode) -> Image.Image:
    """Convert an image of any Pillow mode to 8-bit grey or colour.

    A photograph is turned upright, as its EXIF orientation says. What is transparent becomes white, as on paper. Grey
    values of 16 bits are divided by 256, where Pillow would clip them at 255.

    A file of 32-bit or signed integers does not say what white is: values up to 255 are taken for 8 bits, larger ones
    for 16 bits.

    Raises:
        DataError: The pixels are floating-point numbers, integers beyond 16 bits, or of a mode without a conversion.
    """
    if image.mode == "F":
        raise DataError("has floating-point pixels, whose range is not known; convert it to 8 or 16 bits.")
    if image.mode == "LAB":
        raise DataError("has pixels in the colour space LAB, which Pillow does not convert; save it as RGB.")
    declared = image.mode != "I" or image.format == "PPM"
    image.load()
    image = _upright(image)
    if image.mode.startswith("I"):
        return _in_8_bits(image, declared=declared).convert(mode)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("RGBA", "RGBa", "LA", "PA") or "transparency" in image.info:
        coloured = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert(mode)
    return image.convert(mode)


def _upright(image: Image.Image) -> Image.Image:
    # An image whose EXIF data are damaged is shown by everyone as it stands.
    with contextlib.suppress(*_UNREADABLE, LookupError, TypeError):
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            return ImageOps.exif_transpose(image)
    return image


def _in_8_bits(image: Image.Image, *, declared: bool) -> Image.Image:
    """Scale integers to 8 bits.

    Args:
        image: Of one of Pillow's modes ``I``.
        declared: Whether the file says that white is at 65535; otherwise the values decide.
    """
    values = np.asarray(image).astype(np.int64)
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if low < 0 or high >= 2**16:
        raise DataError(f"has grey values from {low} to {high}, beyond 16 bits; convert it to 8 or 16 bits.")
    grey = (values // 256 if declared or high > 255 else values).astype(np.uint8)
    if isinstance(transparent := image.info.get("transparency"), int):
        grey[values == transparent] = 255
    return Image.fromarray(grey)
