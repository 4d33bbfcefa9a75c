"""The data sets of characters in many fonts, augmented anew every time; whole font families are held out."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from dynaconv.errors import DataError
from dynaconv.train.data.augment import PictureAugment
from dynaconv.train.data.drawn import drawn_source, sorted_by_class
from dynaconv.train.data.glyph_bank import ROLES, GlyphBank, GlyphOptions, check_roles, glyph_bank, held_out
from dynaconv.train.data.glyph_fonts import file_sha256, font_files, package_fonts
from dynaconv.train.data.source import Source
from dynaconv.train.data.source_options import DrawnOptions

IMAGE_SIZE = 32
EPOCH = 100_000
"""Default number of pictures per epoch; the set itself is unlimited."""
_BANK_SCALE = 1.5
_MEAN, _STD = (0.5,), (0.33,)
MINI_CHARACTERS = (
    "23456789ABCDEFGHJKLMNPQRSTUVWXYZabdefghjmnqrty"
    "ΓΔΘΛΞΠΣΦΨΩαβγδεζηθλμξπστφψω"  # Greek letters, not Latin ones
    "БДЖИЛЦЧШЩЪЫЭЮЯ"
)
"""Latin, Greek and Cyrillic letters and digits, without those that look like another one."""
_MINI_FAMILIES = {
    "train": ("DejaVuSans.ttf", "DejaVuSans-*.ttf", "DejaVuSerif.ttf", "DejaVuSerif-*.ttf"),
    "val": ("DejaVuSansMono*.ttf",),
    "test": ("STIXGeneral*.ttf",),
}


def glyphs(options: GlyphOptions, *, data_dir: Path | None, image_size: int | None) -> Source:
    """Return the data set of characters in the fonts of the standard set, of other Debian packages, or of a folder.

    Args:
        options: The characters, the fonts, and the families that are held out.
        data_dir: A folder of fonts that replaces the standard set.
        image_size: Side length of the pictures; by default 32.

    Raises:
        DataError: Fonts are missing, changed, damaged or without the characters, or no family is left for training,
            validation or test.
    """
    if data_dir is not None and options.packages is not None:
        raise DataError(f"pass fonts by data_dir={str(data_dir)!r} or by data.options.packages, not by both.")
    size = image_size or IMAGE_SIZE
    if data_dir is None and options.packages is None:
        files = standard_files()
        bank = glyph_bank(list(files), options, side=bank_side(size), default=tuple(manifest()["characters"]))
        roles = [files[face.path, face.index] for face in bank.faces]
        if options.test_fonts is not None or options.val_fonts is not None:
            roles = held_out(bank, options)
    else:
        paths = font_files(data_dir) if data_dir is not None else package_fonts(options.packages or ())
        bank = glyph_bank([(path, 0) for path in paths], options, side=bank_side(size), default=None)
        roles = held_out(bank, options)
    return _source("glyphs", bank, roles, size, options.distinct)


def glyphs_mini(options: DrawnOptions, *, image_size: int | None) -> Source:
    """Return the data set of Latin, Greek and Cyrillic letters and digits in the fonts that come with matplotlib.

    DejaVu Sans and Serif, upright and slanted, are for training, DejaVu Sans Mono for validation, STIX for the test.

    Args:
        options: The number of different pictures.
        image_size: Side length of the pictures; by default 32.
    """
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    size = image_size or IMAGE_SIZE
    roles = {}
    for role, patterns in _MINI_FAMILIES.items():
        for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
            roles[path] = role
    bank = glyph_bank(
        [(path, 0) for path in roles], GlyphOptions(), side=bank_side(size), default=tuple(MINI_CHARACTERS)
    )
    return _source("glyphs-mini", bank, [roles[face.path] for face in bank.faces], size, options.distinct)


def bank_side(image_size: int) -> int:
    """Return the side length of the stored pictures, which are larger than the augmented ones."""
    return round(_BANK_SCALE * image_size)


@cache
def manifest() -> Mapping[str, Any]:
    """Return the manifest of the standard set: characters; packages, versions, licences; faces, roles, checksums."""
    found: dict[str, Any] = json.loads((resources.files(__package__) / "glyphs.json").read_text(encoding="utf-8"))
    return found


def standard_files() -> dict[tuple[Path, int], str]:
    """Return the role of each face of the standard set, by file and index.

    Raises:
        DataError: A file is missing or from another version; the message has the command that installs it.
    """
    versions = {name: package["version"] for name, package in manifest()["packages"].items()}
    missing: list[str] = []
    roles: dict[tuple[Path, int], str] = {}
    for face in manifest()["faces"]:
        path, package = Path(face["file"]), face["package"]
        if not path.is_file():
            missing.append(package)
            continue
        found = file_sha256(path)
        if found != face["sha256"]:
            raise DataError(
                f"the font {path} has the SHA-256 {found[:12]}..., not {face['sha256'][:12]}... of the data set "
                f"'glyphs'; run `apt-get install --reinstall --allow-downgrades {package}={versions[package]}`, or "
                f"pass data_dir, a folder of fonts of your own."
            )
        roles[path, face["index"]] = face["role"]
    if missing:
        packages = sorted(set(missing))
        raise DataError(
            f"the data set 'glyphs' needs {len(packages)} Debian packages of fonts that are not installed; run "
            f"`apt-get install --no-install-recommends {' '.join(packages)}`, or pass data_dir, a folder of fonts of "
            f"your own."
        )
    return roles


def _source(name: str, bank: GlyphBank, roles: Sequence[str], size: int, distinct: int | None) -> Source:
    check_roles(roles, len(set(bank.groups)))
    chosen = (torch.tensor([one == role for one in roles]) for role in ROLES)
    train, validation, test = (sorted_by_class(bank.pictures[faces]) for faces in chosen)
    return drawn_source(
        name,
        PictureAugment(size=size),
        train=train,
        validation=validation,
        test=test,
        length=EPOCH,
        distinct=distinct,
        class_names=bank.characters,
        mean=_MEAN,
        std=_STD,
        image_size=size,
        note=bank.note,
    )
