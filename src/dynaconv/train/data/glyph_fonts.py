"""Finds and reads font files, draws their characters, and groups fonts of one design."""

import fnmatch
import hashlib
import logging
import math
import re
import subprocess
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from dynaconv.errors import DataError, listed, nearest_names
from dynaconv.log_levels import raised_log_levels

FONT_SUFFIXES = frozenset({".ttf", ".otf", ".ttc", ".otc"})
_WEIGHTS = re.compile(
    r"[ -]+((ultra|extra|demi|semi)? ?(light|bold)|thin|hairline|book|regular|normal|medium|heavy|black|italic|oblique|"
    r"condensed|narrow|display)$",
    re.IGNORECASE,
)
# A glyph that more characters than this share is a placeholder, as in a last-resort font. Latin, Greek and Cyrillic
# letters of one shape may share a glyph.
_MAX_SHARING = 4

Pictures = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Face:
    """One face of a font file.

    Attributes:
        path: The file.
        index: Index of the face, in a file with several.
        family: Name of the family without weight and slant; the faces of a family are held out together.
        sha256: SHA-256 of the file, in hexadecimal.
    """

    path: Path
    index: int
    family: str
    sha256: str


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal; each process reads an unchanged file once."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def font_files(folder: Path) -> list[Path]:
    """Return all font files in a folder and its subfolders, sorted; of identical files only the first.

    Raises:
        DataError: The folder does not exist or has no font file.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; pass a folder of fonts ({_suffixes()}).")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in FONT_SUFFIXES and path.is_file())
    if not found:
        raise DataError(f"{folder} has no font file ({_suffixes()}); pass a folder of fonts.")
    return list({file_sha256(path): path for path in reversed(found)}.values())[::-1]


def package_fonts(packages: Sequence[str]) -> list[Path]:
    """Return the font files of installed Debian packages, sorted; of identical files only the first.

    Raises:
        DataError: A package is not installed or has no font file.
    """
    found: dict[str, Path] = {}
    for package in packages:
        try:
            run = subprocess.run(["dpkg-query", "-L", package], capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise DataError(
                f"packages={list(packages)} needs Debian's dpkg; pass data_dir, a folder of fonts."
            ) from error
        if run.returncode:
            raise DataError(f"the package {package!r} is not installed; run `apt-get install {package}`.")
        paths = [Path(line) for line in run.stdout.splitlines()]
        fonts = sorted(path for path in paths if path.suffix.lower() in FONT_SUFFIXES and path.is_file())
        if not fonts:
            raise DataError(f"the package {package!r} has no font file ({_suffixes()}); name packages of fonts.")
        for path in fonts:
            found.setdefault(file_sha256(path), path)
    return sorted(found.values())


def _suffixes() -> str:
    return ", ".join(sorted(FONT_SUFFIXES))


def read_face(path: Path, index: int = 0) -> tuple[Face, dict[int, str]]:
    """Return one face, and the name of its glyph for each code point that it has one for.

    Raises:
        DataError: The file is damaged or not a font.
    """
    from fontTools.ttLib import TTFont

    # fontTools logs the faults that it can repair.
    with raised_log_levels("fontTools", level=logging.CRITICAL):
        try:
            # If fontTools opens a damaged file itself, it does not close it.
            with path.open("rb") as file, TTFont(file, fontNumber=index, lazy=True) as font:
                glyphs: dict[int, str] = font.getBestCmap() or {}
                first = font.getGlyphOrder()[0]
                names = font["name"]
                family = names.getDebugName(16) or names.getDebugName(1) or path.stem
        # A damaged table may raise any exception.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{path} is damaged or not a font ({reason}); remove it from the fonts.") from error
    glyphs = {code: glyph for code, glyph in glyphs.items() if glyph != first}
    return Face(path=path, index=index, family=plain_family(family), sha256=file_sha256(path)), glyphs


def plain_family(name: str) -> str:
    """Return a family's name without the words for weight and slant at its end."""
    name = name.strip()
    while (shorter := _WEIGHTS.sub("", name)) != name and shorter:
        name = shorter
    return name


def drawable(glyphs: dict[int, str]) -> set[str]:
    """Return the letters and digits that a face has a glyph for, other than a placeholder."""
    shared = Counter(glyphs.values())
    return {
        chr(code)
        for code, glyph in glyphs.items()
        if shared[glyph] <= _MAX_SHARING and unicodedata.category(chr(code))[0] in "LN"
    }


def lacking(glyphs: dict[int, str], characters: Sequence[str]) -> str | None:
    """Return the first of ``characters`` for which a face has no glyph or only a placeholder, or ``None``."""
    shared = Counter(glyphs[ord(c)] for c in characters if ord(c) in glyphs)
    return next((c for c in characters if ord(c) not in glyphs or shared[glyphs[ord(c)]] > _MAX_SHARING), None)


@cache
def _script_codes() -> dict[str, str]:
    from fontTools.unicodedata import Scripts

    return {name.replace("_", " ").lower(): code for code, name in Scripts.NAMES.items()}


@cache
def _blocks() -> dict[str, str]:
    from fontTools.unicodedata import Blocks

    return {name.lower(): name for name in Blocks.VALUES}


def of_script(characters: Iterable[str], script: str) -> set[str]:
    """Return the characters that belong to a Unicode script or block, such as ``"Greek"``.

    Raises:
        DataError: There is no such script or block.
    """
    from fontTools import unicodedata as tables

    name = script.replace("_", " ").lower()
    if name in _script_codes():
        code = _script_codes()[name]
        return {c for c in characters if tables.script(c) == code}
    if name in _blocks():
        return {c for c in characters if tables.block(c) == _blocks()[name]}
    near = nearest_names(name, [*_script_codes(), *_blocks()])
    raise DataError(f"there is no Unicode script or block {script!r}; the nearest names are {listed(near)}.")


def render(face: Face, characters: Sequence[str], side: int, fill: float = 0.95) -> Pictures | str:
    """Draw characters light on black, at one size, each with its ink in the centre.

    The size is chosen so that 95 % of the characters fit into the fraction ``fill`` of the side; the others are shrunk.

    Returns:
        ``uint8``, ``(len(characters), side, side)``; or the first character that is drawn blank or as the missing-glyph
        sign of the face.

    Raises:
        DataError: FreeType cannot draw the file.
    """
    try:
        font = ImageFont.truetype(face.path, side, index=face.index, layout_engine=ImageFont.Layout.BASIC)
        # Bounding boxes of the ink; `getbbox` of the font includes the space to the next character.
        boxes = [font.getmask(character, "L").getbbox() or (0, 0, 0, 0) for character in characters]
        extents = sorted(max(right - left, bottom - top) for left, top, right, bottom in boxes)
        extent = extents[math.ceil(0.95 * len(extents)) - 1]
        if extent <= 0:
            return characters[0]
        font = font.font_variant(size=fill * side * side / extent)
        pictures = np.stack([_centred(font, character, side) for character in characters])
        missing = _centred(font, "\U0010fffe", side)
    except OSError as error:
        raise DataError(f"{face.path} cannot be drawn ({error}); remove it from the fonts.") from error
    ink = pictures.sum((1, 2), dtype=np.int64)
    # Hinting may draw one shape slightly differently for different scripts.
    difference = np.abs(pictures.astype(np.int64) - missing).sum((1, 2))
    bad = np.flatnonzero((ink == 0) | (difference <= 0.02 * ink))
    return characters[bad[0]] if len(bad) else pictures


def _centred(font: ImageFont.FreeTypeFont, character: str, side: int) -> Pictures:
    left, top, right, bottom = font.getbbox(character)
    canvas = Image.new("L", (max(int(right - left), 0) + 4, max(int(bottom - top), 0) + 4))
    ImageDraw.Draw(canvas).text((2 - left, 2 - top), character, font=font, fill=255)
    picture = Image.new("L", (side, side))
    box = canvas.getbbox()
    if box is not None:
        ink = canvas.crop(box)
        if max(ink.size) > side:
            ink.thumbnail((side, side), Image.Resampling.BOX)
        picture.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2))
    return np.asarray(picture)


SAME_DESIGN = 0.9
"""Two faces draw the same shapes if the median correlation of their pictures is above this."""


def design_groups(faces: Sequence[Face], pictures: Sequence[Pictures]) -> list[int]:
    """Return a group number for each face; faces of one family, or that draw the same shapes, share it.

    Many free fonts contain the characters of another font under a new name.

    Args:
        faces: The faces.
        pictures: For each face, pictures of the same characters, ``(N, side, side)``.
    """
    from scipy.sparse.csgraph import connected_components

    flat = np.stack([_normalised(one) for one in pictures])  # faces x characters x pixels
    alike = np.median(np.einsum("fcp,gcp->fgc", flat, flat, optimize=True), axis=2) > SAME_DESIGN
    families = np.array([face.family for face in faces])
    _, groups = connected_components(alike | (families[:, None] == families), directed=False)
    return [int(group) for group in groups]


def _normalised(pictures: Pictures) -> npt.NDArray[np.float32]:
    # At a reduced size, strokes that are two pixels apart still overlap.
    count, side, _ = pictures.shape
    step = max(side // 24, 1)
    trimmed = pictures[:, : side // step * step, : side // step * step].astype(np.float32)
    small = trimmed.reshape(count, side // step, step, side // step, step).mean((2, 4)).reshape(count, -1)
    small -= small.mean(1, keepdims=True)
    norm: npt.NDArray[np.float32] = small / np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-6)
    return norm


def matching(patterns: Sequence[str], families: Iterable[str], option: str) -> set[str]:
    """Return the families that match any of the patterns, which may contain ``*`` and ``?``.

    Raises:
        DataError: A pattern matches no family; the message has the nearest names.
    """
    known = sorted(set(families))
    found: set[str] = set()
    for pattern in patterns:
        hits = fnmatch.filter(known, pattern)
        if not hits:
            near = listed(nearest_names(pattern, known))
            raise DataError(f"{option} has {pattern!r}, which matches no font family; the nearest names are {near}.")
        found.update(hits)
    return found
