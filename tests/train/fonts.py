"""Fonts that tests make: every character is a pattern of squares."""

import random
from collections.abc import Mapping
from pathlib import Path

from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

_CELL, _CELLS = 120, 6


def squares(design: int, character: str) -> list[tuple[int, int]]:
    """The cells that a design fills for a character: three in four follow from the character, the others from both."""
    chance, own = random.Random(f"{character}"), random.Random(f"{design} {character}")
    cells = [(x, y) for x in range(_CELLS) for y in range(_CELLS)]
    return [cell for cell in cells if (chance.random() < 0.5 if own.random() < 0.75 else own.random() < 0.5)]


def make_font(
    path: Path,
    family: str,
    characters: str,
    *,
    design: int = 0,
    style: str = "Regular",
    bold: int = 0,
    cells: Mapping[str, list[tuple[int, int]]] | None = None,
    glyphs: Mapping[str, str] | None = None,
) -> Path:
    """Write a TrueType font.

    Args:
        path: The file.
        family, style: Its names.
        characters: What it has glyphs for.
        design: Decides the shapes.
        bold: Units by which each square grows to every side.
        cells: Shapes of some characters, in place of the design's; ``".notdef"`` is the sign for a missing glyph.
        glyphs: The glyph name of some characters, in place of one of their own.
    """
    given = {".notdef": [(1, 0), (4, 5), (2, 2)], **(cells or {})}
    names = {character: (glyphs or {}).get(character, f"u{ord(character):04X}") for character in characters}
    shapes = {".notdef": given[".notdef"]}
    for character, name in names.items():
        shapes.setdefault(name, given.get(character, squares(design, character)))
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(list(shapes))
    builder.setupCharacterMap({ord(character): name for character, name in names.items()})
    drawn = {}
    for name, filled in shapes.items():
        pen = TTGlyphPen(None)
        for x, y in filled:
            left, bottom = 100 + x * _CELL - bold, y * _CELL - bold
            right, top = left + _CELL + 2 * bold, bottom + _CELL + 2 * bold
            pen.moveTo((left, bottom))
            for point in ((left, top), (right, top), (right, bottom)):
                pen.lineTo(point)
            pen.closePath()
        drawn[name] = pen.glyph()
    builder.setupGlyf(drawn)
    builder.setupHorizontalMetrics(dict.fromkeys(shapes, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": style})
    builder.setupOS2()
    builder.setupPost()
    path.parent.mkdir(parents=True, exist_ok=True)
    builder.save(path)
    return path


def make_families(folder: Path, characters: str = "abcdef", count: int = 8) -> Path:
    """Write a folder of ``count`` families, each of another design: Family 0, Family 1, ..."""
    for number in range(count):
        make_font(folder / f"{number}.ttf", f"Family {number}", characters, design=number)
    return folder
