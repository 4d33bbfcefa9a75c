"""Every character of every font, drawn once: which characters and fonts are taken, and which fonts are held out."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import __version__ as pillow_version
from PIL import features
from torch import Tensor

from dynaconv.errors import DataError, listed
from dynaconv.train.data.bank_cache import Bank, cached_bank
from dynaconv.train.data.glyph_fonts import (
    Face,
    Pictures,
    design_groups,
    drawable,
    file_sha256,
    lacking,
    matching,
    of_script,
    read_face,
    render,
)
from dynaconv.train.data.source_options import DrawnOptions, check_count

ROLES = ("train", "val", "test")
_SAMPLE = 40
_DRAWING = 1
"""Changes with what `glyph_fonts.render` draws, so that older banks in the cache are not used."""


@dataclass(frozen=True, kw_only=True)
class GlyphOptions(DrawnOptions):
    """Options of the data set ``glyphs``.

    Attributes:
        packages: Debian packages whose fonts are used in place of the standard set's.
        characters: The characters, each a class: a text or a list.
        script: All characters of a Unicode script or block that the fonts share, such as ``"Greek"``; in place of
            ``characters``. With neither, the standard set's 500, and for other fonts all letters and digits they share.
        num_characters: Take that many of them, drawn by ``seed``.
        test_fonts, val_fonts: Families that are held out: names with ``*`` and ``?``, or how many, drawn by ``seed``.
            By default those of the standard set; of other fonts a quarter and an eighth of the families. Families that
            draw the same shapes count as one.
        seed: Of these choices.
        distinct: Where it is not ``None``, training sees that many different pictures, again and again.

    Raises:
        DataError: A value does not fit.
    """

    packages: Sequence[str] | None = None
    characters: str | Sequence[str] | None = None
    script: str | None = None
    num_characters: int | None = None
    test_fonts: int | Sequence[str] | None = None
    val_fonts: int | Sequence[str] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.characters is not None and self.script is not None:
            raise DataError("data.options has both `characters` and `script`; give one of them.")
        if type(self.seed) is not int:
            raise DataError(f"data.options.seed is a whole number; got {self.seed!r}.")
        check_count("num_characters", self.num_characters)
        for name in ("packages", "test_fonts", "val_fonts"):
            value = getattr(self, name)
            if name != "packages" and (value is None or isinstance(value, int)):
                check_count(name, value)
            elif value is not None and not _is_texts(value):
                raise DataError(f"data.options.{name} is a list of names; got {value!r}.")
        _ = self.classes

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The characters that were asked for one by one, else ``None``."""
        if self.characters is None:
            return None
        characters = self.characters
        if not isinstance(characters, str) and not _is_texts(characters):
            raise DataError(f"data.options.characters is a text or a list of characters; got {characters!r}: quote it.")
        if long := [one for one in characters if len(one) != 1]:
            raise DataError(f"data.options.characters lists single characters; got {long[0]!r}.")
        if len(set(characters)) < max(len(characters), 2):
            raise DataError(f"data.options.characters needs two or more different characters; got {characters!r}.")
        return tuple(characters)


def _is_texts(values: Any) -> bool:
    return not isinstance(values, str) and isinstance(values, Sequence) and all(isinstance(one, str) for one in values)


@dataclass(frozen=True, kw_only=True)
class GlyphBank:
    """Every character of every face, drawn once.

    Attributes:
        pictures: ``uint8``, ``(faces, characters, side, side)``, light on black.
        characters: One a class.
        faces: In the order of the pictures.
        groups: A number for each face; the faces of one family, or of one design, share it.
        note: Which fonts and characters were left out.
    """

    pictures: Tensor
    characters: tuple[str, ...]
    faces: tuple[Face, ...]
    groups: tuple[int, ...]
    note: str


def glyph_bank(
    files: Sequence[tuple[Path, int]], options: GlyphOptions, *, side: int, default: tuple[str, ...] | None
) -> GlyphBank:
    """Draw the characters in every face that has them all, or take the pictures from the user's cache.

    Args:
        files: Font files and the index of a face in each.
        options: Which characters.
        side: Side length of a picture.
        default: The characters where the options name none; ``None`` takes those that all faces share.

    Raises:
        DataError: A file is damaged, or no face has the characters.
    """
    wanted = options.classes or (default if options.script is None else None)
    sums = [file_sha256(path) for path, _ in files]
    key = {
        "drawing": _DRAWING,
        "fonts": [(digest, index) for digest, (_, index) in zip(sums, files, strict=True)],
        "characters": wanted,
        "script": options.script,
        "count": options.num_characters,
        "seed": options.seed if options.num_characters else None,
        "side": side,
        "pillow": pillow_version,
        "freetype": features.version("freetype2"),
    }
    bank = cached_bank("glyphs", key, partial(_draw_bank, files, wanted, options, side))
    facts = bank.facts
    faces = [
        Face(path=files[number][0], index=files[number][1], family=family, sha256=sums[number])
        for number, family in zip(facts["faces"], facts["families"], strict=True)
    ]
    return GlyphBank(
        pictures=bank.images,
        characters=tuple(facts["characters"]),
        faces=tuple(faces),
        groups=tuple(facts["groups"]),
        note=facts["note"],
    )


def _draw_bank(
    files: Sequence[tuple[Path, int]], wanted: tuple[str, ...] | None, options: GlyphOptions, side: int
) -> Bank:
    read = [read_face(*file) for file in files]
    characters, left_out = _choose(read, wanted, options)
    kept: list[int] = []
    pictures: list[Pictures] = []
    for number, (face, glyphs) in enumerate(read):
        if number in left_out:
            continue
        missing = lacking(glyphs, characters)
        drawn: Pictures | str = missing if missing is not None else render(face, characters, side)
        if isinstance(drawn, str):
            left_out[number] = drawn
        else:
            kept.append(number)
            pictures.append(drawn)
    if not kept:
        _, lacked = next(iter(left_out.items()))
        raise DataError(
            f"none of the {len(files)} fonts has all {len(characters)} characters (one lacks {lacked!r}); ask for "
            f"others, or add fonts that have them."
        )
    stacked = np.stack(pictures)
    characters, stacked, doubles = _without_doubles(characters, stacked, explicit=options.classes is not None)
    step = max(len(characters) // _SAMPLE, 1)
    faces = [read[number][0] for number in kept]
    groups = design_groups(faces, [one[::step][:_SAMPLE] for one in stacked])
    facts = {
        "faces": kept,
        "families": [face.family for face in faces],
        "characters": characters,
        "groups": groups,
        "note": _note([read[number][0] for number in left_out], list(left_out.values()), doubles),
    }
    return Bank(images=torch.from_numpy(stacked), facts=facts)


def _choose(
    read: Sequence[tuple[Face, dict[int, str]]], wanted: tuple[str, ...] | None, options: GlyphOptions
) -> tuple[tuple[str, ...], dict[int, str]]:
    """Return the characters, and a character for each face that has none of a script."""
    left_out: dict[int, str] = {}
    if wanted is None:
        able = [drawable(glyphs) for _, glyphs in read]
        if options.script is not None:
            able = [of_script(characters, options.script) for characters in able]
            some = next((min(characters) for characters in able if characters), "")
            left_out = {number: some for number, characters in enumerate(able) if not characters}
        rest = [characters for characters in able if characters]
        wanted = tuple(sorted(set.intersection(*rest))) if rest else ()
        if len(wanted) < 2:
            what = f"characters of {options.script!r}" if options.script else "letters or digits"
            raise DataError(
                f"the {len(read)} fonts share {len(wanted)} {what}, and two or more are needed; take out fonts that "
                f"have few, or name the characters in data.options.characters."
            )
    count = options.num_characters
    if count is not None:
        if not 2 <= count <= len(wanted):
            raise DataError(
                f"data.options.num_characters={count} is outside 2 to {len(wanted)}, the number of characters."
            )
        wanted = tuple(sorted(random.Random(options.seed).sample(wanted, count)))
    return wanted, left_out


def _without_doubles(
    characters: tuple[str, ...], pictures: Pictures, *, explicit: bool
) -> tuple[tuple[str, ...], Pictures, int]:
    """Leave out characters that every face draws as it draws another one, such as a Latin and a Cyrillic A."""
    first: dict[bytes, str] = {}
    kept = []
    for number, character in enumerate(characters):
        other = first.setdefault(pictures[:, number].tobytes(), character)
        if other == character:
            kept.append(number)
        elif explicit:
            raise DataError(
                f"every font draws {other!r} (U+{ord(other):04X}) and {character!r} (U+{ord(character):04X}) alike; "
                f"take one out of data.options.characters."
            )
    return tuple(characters[number] for number in kept), pictures[:, kept], len(characters) - len(kept)


def _note(faces: Sequence[Face], lacked: Sequence[str], doubles: int) -> str:
    parts = []
    if faces:
        parts.append(
            f"{len(faces)} font files lack characters and are left out, such as {faces[0].path.name} ({lacked[0]!r})."
        )
    if doubles:
        parts.append(f"Characters that every font draws like another one are left out: {doubles}.")
    return " ".join(parts)


def held_out(bank: GlyphBank, options: GlyphOptions) -> list[str]:
    """Return the role of each face, so that no family and no design has two.

    Raises:
        DataError: A pattern names no family, or one of two roles.
    """
    groups = list(dict.fromkeys(bank.groups))
    order = random.Random(options.seed).sample(groups, len(groups))
    taken: dict[int, str] = {}
    asked = {"test": options.test_fonts, "val": options.val_fonts}
    for role, value in asked.items():
        if value is None or isinstance(value, int):
            continue
        families = matching(value, [face.family for face in bank.faces], f"data.options.{role}_fonts")
        for face, group in zip(bank.faces, bank.groups, strict=True):
            if face.family in families and taken.setdefault(group, role) != role:
                raise DataError(
                    f"the family {face.family!r} is held out for validation and, itself or one of the same shapes, for "
                    f"test; name it in one of data.options.test_fonts and data.options.val_fonts."
                )
    for role, share in (("test", 4), ("val", 8)):
        value = asked[role]
        if value is None or isinstance(value, int):
            free = [group for group in order if group not in taken]
            count = value if value is not None else max(len(groups) // share, 1)
            taken |= dict.fromkeys(free[:count], role)
    return [taken.get(group, "train") for group in bank.groups]


def check_roles(roles: Sequence[str], families: int) -> None:
    """Refuse roles of which one has no face.

    Args:
        roles: Of the faces.
        families: How many families there are, for the message.
    """
    if empty := [role for role in ROLES if role not in roles]:
        raise DataError(
            f"no font is left for {listed(empty, quote=False)}, of {families} font families of different design; add "
            f"fonts, or hold out fewer in data.options.test_fonts and data.options.val_fonts."
        )
