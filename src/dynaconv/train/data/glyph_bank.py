"""Renders every character of every font once, and selects the characters, the fonts and the held-out fonts."""

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

from dynaconv.errors import DataError, listed, received
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
_MAX_COMPARED = 40
_RENDER_VERSION = 1
"""Version of `glyph_fonts.render`; a new one for new pictures, so that older banks in the cache are not used."""


@dataclass(frozen=True, kw_only=True)
class GlyphOptions(DrawnOptions):
    """Options of the data set ``glyphs``.

    Attributes:
        packages: Debian packages whose fonts replace those of the standard set.
        characters: The characters, one class each: a string or a list.
        script: Unicode script or block, such as ``"Greek"``, from which all characters that the fonts share are used,
            in place of ``characters``. Without both, the characters are the 500 of the standard set, or for other fonts
            all letters and digits that they share.
        num_characters: Number of characters to use, drawn at random by ``seed``; by default all.
        test_fonts, val_fonts: Families that are held out: names with ``*`` and ``?``, or their number, drawn by
            ``seed``. By default those of the standard set; of other fonts a quarter and an eighth of the families.
            Families that draw the same shapes count as one.
        seed: Seed of these choices.
        distinct: If not ``None``, training uses only that many different pictures, repeatedly.

    Raises:
        DataError: A value is invalid.
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
            raise DataError("data.options has both `characters` and `script`; pass only one of them.")
        if type(self.seed) is not int:
            raise DataError(f"data.options.seed must be an integer; got {received(self.seed)}.")
        check_count("num_characters", self.num_characters)
        for name in ("packages", "test_fonts", "val_fonts"):
            value = getattr(self, name)
            if name != "packages" and (value is None or isinstance(value, int)):
                check_count(name, value)
            elif value is not None and not _is_strings(value):
                raise DataError(f"data.options.{name} must be a list of names; got {received(value)}.")
        _ = self.classes

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The characters in the option ``characters``, or ``None`` without it."""
        if self.characters is None:
            return None
        characters = self.characters
        if not isinstance(characters, str) and not _is_strings(characters):
            raise DataError(
                f"data.options.characters must be a string or a list of characters; got {received(characters)}. Quote "
                f"it."
            )
        if long := [one for one in characters if len(one) != 1]:
            raise DataError(f"data.options.characters must list single characters; got {received(long[0])}.")
        if len(set(characters)) < max(len(characters), 2):
            raise DataError(
                f"data.options.characters must have two or more characters and none of them twice; got "
                f"{received(characters)}."
            )
        return tuple(characters)


def _is_strings(values: Any) -> bool:
    return not isinstance(values, str) and isinstance(values, Sequence) and all(isinstance(one, str) for one in values)


@dataclass(frozen=True, kw_only=True)
class GlyphBank:
    """Pictures of every character in every face.

    Attributes:
        pictures: ``uint8``, ``(faces, characters, side, side)``, light on black.
        characters: The characters, one per class.
        faces: The faces, in the order of the pictures.
        groups: Group number of each face; the faces of one family, or of one design, share it.
        note: Message for the user about fonts and characters that are left out.
    """

    pictures: Tensor
    characters: tuple[str, ...]
    faces: tuple[Face, ...]
    groups: tuple[int, ...]
    note: str


def glyph_bank(
    files: Sequence[tuple[Path, int]], options: GlyphOptions, *, side: int, default: tuple[str, ...] | None
) -> GlyphBank:
    """Draw the characters in every face that has them all, or read the pictures from the user's cache.

    Args:
        files: Font files and the index of a face in each.
        options: Options that select the characters.
        side: Side length of a picture, in pixels.
        default: The characters if the options name none; ``None`` uses those that all faces share.

    Raises:
        DataError: A file is damaged, or no face has all characters.
    """
    chosen = options.classes or (default if options.script is None else None)
    sums = [file_sha256(path) for path, _ in files]
    key = {
        "drawing": _RENDER_VERSION,
        "fonts": [(digest, index) for digest, (_, index) in zip(sums, files, strict=True)],
        "characters": chosen,
        "script": options.script,
        "count": options.num_characters,
        "seed": options.seed if options.num_characters else None,
        "side": side,
        "pillow": pillow_version,
        "freetype": features.version("freetype2"),
    }
    bank = cached_bank("glyphs", key, partial(_draw_bank, files, chosen, options, side))
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
    files: Sequence[tuple[Path, int]], chosen: tuple[str, ...] | None, options: GlyphOptions, side: int
) -> Bank:
    loaded = [read_face(*file) for file in files]
    characters, left_out = _choose_characters(loaded, chosen, options)
    kept: list[int] = []
    pictures: list[Pictures] = []
    for number, (face, glyphs) in enumerate(loaded):
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
        _, example = next(iter(left_out.items()))
        raise DataError(
            f"none of the {len(files)} fonts has all {len(characters)} characters (one lacks {example!r}); choose "
            f"other characters, or add fonts that have them."
        )
    stacked = np.stack(pictures)
    characters, stacked, duplicates = _without_duplicates(characters, stacked, explicit=options.classes is not None)
    step = max(len(characters) // _MAX_COMPARED, 1)
    faces = [loaded[number][0] for number in kept]
    groups = design_groups(faces, [one[::step][:_MAX_COMPARED] for one in stacked])
    facts = {
        "faces": kept,
        "families": [face.family for face in faces],
        "characters": characters,
        "groups": groups,
        "note": _note([loaded[number][0] for number in left_out], list(left_out.values()), duplicates),
    }
    return Bank(images=torch.from_numpy(stacked), facts=facts)


def _choose_characters(
    loaded: Sequence[tuple[Face, dict[int, str]]], chosen: tuple[str, ...] | None, options: GlyphOptions
) -> tuple[tuple[str, ...], dict[int, str]]:
    """Return the characters, and for each face without any of the script a character that it lacks."""
    left_out: dict[int, str] = {}
    if chosen is None:
        able = [drawable(glyphs) for _, glyphs in loaded]
        if options.script is not None:
            able = [of_script(characters, options.script) for characters in able]
            some = next((min(characters) for characters in able if characters), "")
            left_out = {number: some for number, characters in enumerate(able) if not characters}
        rest = [characters for characters in able if characters]
        chosen = tuple(sorted(set.intersection(*rest))) if rest else ()
        if len(chosen) < 2:
            noun = f"characters of {options.script!r}" if options.script else "letters or digits"
            raise DataError(
                f"the {len(loaded)} fonts share {len(chosen)} {noun}, but two or more are needed; remove fonts that "
                f"have few, or list the characters in data.options.characters."
            )
    count = options.num_characters
    if count is not None:
        if not 2 <= count <= len(chosen):
            raise DataError(
                f"data.options.num_characters={count} must be from 2 to {len(chosen)}, the number of characters."
            )
        chosen = tuple(sorted(random.Random(options.seed).sample(chosen, count)))
    return chosen, left_out


def _without_duplicates(
    characters: tuple[str, ...], pictures: Pictures, *, explicit: bool
) -> tuple[tuple[str, ...], Pictures, int]:
    """Leave out characters that every face draws like another one, such as a Latin and a Cyrillic A."""
    first: dict[bytes, str] = {}
    kept = []
    for number, character in enumerate(characters):
        other = first.setdefault(pictures[:, number].tobytes(), character)
        if other == character:
            kept.append(number)
        elif explicit:
            raise DataError(
                f"every font draws {other!r} (U+{ord(other):04X}) and {character!r} (U+{ord(character):04X}) alike; "
                f"remove one from data.options.characters."
            )
    return tuple(characters[number] for number in kept), pictures[:, kept], len(characters) - len(kept)


def _note(faces: Sequence[Face], missing: Sequence[str], duplicates: int) -> str:
    parts = []
    if faces:
        parts.append(
            f"{len(faces)} font files lack characters and are left out, such as {faces[0].path.name} ({missing[0]!r})."
        )
    if duplicates:
        parts.append(f"Characters that every font draws like another one are left out: {duplicates}.")
    return " ".join(parts)


def held_out(bank: GlyphBank, options: GlyphOptions) -> list[str]:
    """Return the role of each face; the faces of one family or design have the same one.

    Raises:
        DataError: A pattern matches no family, or a family is held out for both roles.
    """
    groups = list(dict.fromkeys(bank.groups))
    order = random.Random(options.seed).sample(groups, len(groups))
    taken: dict[int, str] = {}
    requested = {"test": options.test_fonts, "val": options.val_fonts}
    for role, value in requested.items():
        if value is None or isinstance(value, int):
            continue
        families = matching(value, [face.family for face in bank.faces], f"data.options.{role}_fonts")
        for face, group in zip(bank.faces, bank.groups, strict=True):
            if face.family in families and taken.setdefault(group, role) != role:
                raise DataError(
                    f"the family {face.family!r}, or one with the same shapes, is held out for both validation and "
                    f"test; name it in only one of data.options.test_fonts and data.options.val_fonts."
                )
    for role, share in (("test", 4), ("val", 8)):
        value = requested[role]
        if value is None or isinstance(value, int):
            free = [group for group in order if group not in taken]
            count = value if value is not None else max(len(groups) // share, 1)
            taken |= dict.fromkeys(free[:count], role)
    return [taken.get(group, "train") for group in bank.groups]


def check_roles(roles: Sequence[str], families: int) -> None:
    """Check that each role has a face.

    Args:
        roles: Role of each face.
        families: Number of families, for the message.

    Raises:
        DataError: A role has no face.
    """
    if empty := [role for role in ROLES if role not in roles]:
        raise DataError(
            f"no font is left for {listed(empty, quote=False)} out of {families} font families of different design; "
            f"add fonts, or hold out fewer in data.options.test_fonts and data.options.val_fonts."
        )
