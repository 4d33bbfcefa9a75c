"""Font files: what is found, what a font can draw, which fonts belong together."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest

from dynaconv.errors import DataError
from dynaconv.train.data.glyph_fonts import (
    design_groups,
    drawable,
    font_files,
    lacking,
    matching,
    of_script,
    package_fonts,
    plain_family,
    read_face,
    render,
)
from tests.messages import refuses
from tests.train.fonts import make_font

MATPLOTLIB = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def test_fonts_are_found_once(tmp_path: Path) -> None:
    first = make_font(tmp_path / "a" / "one.ttf", "One", "ab")
    make_font(tmp_path / "two.TTF", "Two", "ab", design=1)
    (tmp_path / "b").mkdir()
    shutil.copy(first, tmp_path / "b" / "another-name.ttf")
    (tmp_path / "readme.txt").write_text("no font")
    assert [path.name for path in font_files(tmp_path)] == ["one.ttf", "two.TTF"]


def test_a_folder_without_fonts_is_named(tmp_path: Path) -> None:
    with refuses(DataError):
        font_files(tmp_path)
    with refuses(DataError):
        font_files(tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ["text", "cut", "empty"])
def test_a_damaged_font_is_named(tmp_path: Path, damage: str) -> None:
    path = make_font(tmp_path / "broken.ttf", "Broken", "ab")
    raw = path.read_bytes()
    path.write_bytes({"text": b"no font at all", "cut": raw[:300], "empty": b""}[damage])
    with refuses(DataError, "broken.ttf"):
        read_face(path)


def test_a_face_knows_its_family_and_glyphs(tmp_path: Path) -> None:
    face, glyphs = read_face(make_font(tmp_path / "x.ttf", "Some Sans Bold", "abç"))
    assert face.family == "Some Sans"
    assert drawable(glyphs) == set("abç")
    assert lacking(glyphs, "abz") == "z"
    assert lacking(glyphs, "ab") is None


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Noto Sans CJK JP DemiLight", "Noto Sans CJK JP"),
        ("M PLUS 1 Extra Bold Italic", "M PLUS 1"),
        ("Black", "Black"),
        ("DejaVu Sans Mono", "DejaVu Sans Mono"),
        ("Light House", "Light House"),
    ],
)
def test_weight_and_slant_are_no_part_of_a_family(name: str, family: str) -> None:
    assert plain_family(name) == family


def test_placeholders_are_no_glyphs(tmp_path: Path) -> None:
    shared = make_font(tmp_path / "x.ttf", "X", "abcdefgh", glyphs=dict.fromkeys("abcdefg", "box"))
    _, glyphs = read_face(shared)
    assert drawable(glyphs) == {"h"}
    assert lacking(glyphs, "abcdefgh") == "a"
    # Latin, Greek and Cyrillic letters of one shape share a glyph by right.
    _, glyphs = read_face(
        make_font(tmp_path / "y.ttf", "Y", "A\u0391\u0410b", glyphs=dict.fromkeys("A\u0391\u0410", "A"))
    )
    assert drawable(glyphs) == set("A\u0391\u0410b")
    _, glyphs = read_face(make_font(tmp_path / "z.ttf", "Z", "ab", glyphs={"a": ".notdef"}))
    assert lacking(glyphs, "ab") == "a"


def test_a_last_resort_font_draws_nothing() -> None:
    _, glyphs = read_face(MATPLOTLIB / "LastResortHE-Regular.ttf")
    assert ord("A") in glyphs
    assert lacking(glyphs, "ABCDEFG") == "A"


def test_pictures_are_centred_and_of_one_size(tmp_path: Path) -> None:
    shapes = {"a": [(0, 0), (5, 5)], "b": [(2, 2)], "c": [(0, 3), (5, 3)]}
    face, _ = read_face(make_font(tmp_path / "x.ttf", "X", "abc", cells=shapes))
    pictures = render(face, "abc", 48)
    assert not isinstance(pictures, str)
    assert (pictures.shape, pictures.dtype) == ((3, 48, 48), np.uint8)
    for picture, (wide, tall) in zip(pictures, ((6, 6), (1, 1), (6, 1)), strict=True):
        rows, columns = np.flatnonzero((picture > 127).any(1)), np.flatnonzero((picture > 127).any(0))
        assert abs(rows[0] + rows[-1] - 47) <= 1
        assert abs(columns[0] + columns[-1] - 47) <= 1
        assert columns[-1] - columns[0] + 1 == pytest.approx(wide * 0.95 * 48 / 6, abs=1.5)
        assert rows[-1] - rows[0] + 1 == pytest.approx(tall * 0.95 * 48 / 6, abs=1.5)


def test_a_character_larger_than_the_others_is_shrunk(tmp_path: Path) -> None:
    shapes = {character: [(2, 2)] for character in "abcdefghijklmnopqrstuvw"} | {"x": [(0, 0), (5, 5)]}
    face, _ = read_face(make_font(tmp_path / "x.ttf", "X", "abcdefghijklmnopqrstuvwx", cells=shapes))
    pictures = render(face, "abcdefghijklmnopqrstuvwx", 32)
    assert not isinstance(pictures, str)
    large = np.flatnonzero((pictures[-1] > 60).any(0))
    assert (large[0], large[-1]) == (0, 31)


@pytest.mark.parametrize("kind", ["blank", "tofu"])
def test_blank_characters_and_signs_for_missing_ones_are_found(tmp_path: Path, kind: str) -> None:
    corners = [(0, 0), (5, 5)]
    cells = {"b": [] if kind == "blank" else corners, ".notdef": corners}
    face, glyphs = read_face(make_font(tmp_path / "x.ttf", "X", "abc", cells=cells))
    assert lacking(glyphs, "abc") is None
    assert render(face, "abc", 32) == "b"


def test_a_font_that_cannot_be_drawn_is_named(tmp_path: Path) -> None:
    path = make_font(tmp_path / "x.ttf", "X", "abc")
    face, _ = read_face(path)
    path.write_bytes(b"changed since")
    with refuses(DataError, "x.ttf"):
        render(face, "abc", 32)


def test_faces_of_one_family_or_design_share_a_group(tmp_path: Path) -> None:
    made = [
        make_font(tmp_path / "0.ttf", "Alpha", "abcdefgh", design=1),
        make_font(tmp_path / "1.ttf", "Beta", "abcdefgh", design=2),
        make_font(tmp_path / "2.ttf", "Alpha Bold", "abcdefgh", design=3),  # of Alpha's family
        make_font(tmp_path / "3.ttf", "Gamma", "abcdefgh", design=2, bold=3),  # of Beta's design
        make_font(tmp_path / "4.ttf", "Delta", "abcdefgh", design=4),
    ]
    faces = [read_face(path)[0] for path in made]
    pictures = [render(face, "abcdefgh", 48) for face in faces]
    assert design_groups(faces, pictures) == [0, 1, 0, 1, 2]  # type: ignore[arg-type]


def test_scripts_and_blocks() -> None:
    characters = set("aZßδΩяЖ一の5")
    assert of_script(characters, "Greek") == set("δΩ")
    assert of_script(characters, "cyrillic") == set("яЖ")
    assert of_script(characters, "Han") == {"一"}
    assert of_script(characters, "Basic Latin") == set("aZ5")
    assert of_script(characters, "cjk unified ideographs") == {"一"}
    with refuses(DataError, "Grek"):
        of_script(characters, "Grek")


def test_families_are_named_with_wildcards() -> None:
    families = ["Alpha Sans", "Alpha Serif", "Beta"]
    assert matching(["Alpha *"], families, "x") == {"Alpha Sans", "Alpha Serif"}
    with refuses(DataError, "Betta"):
        matching(["Betta"], families, "test_fonts")


def test_fonts_of_debian_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_font(tmp_path / "x.ttf", "X", "ab")
    listing = {"fonts-x": (0, f"/usr\n{path}\n{tmp_path}/gone.ttf\n"), "tool": (0, "/usr/bin/tool\n"), "none": (1, "")}

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert command[:2] == ["dpkg-query", "-L"]
        return subprocess.CompletedProcess(command, *listing[command[2]], "")

    monkeypatch.setattr(subprocess, "run", run)
    assert package_fonts(["fonts-x"]) == [path]
    with refuses(DataError, "'none'"):
        package_fonts(["fonts-x", "none"])
    with refuses(DataError, "tool"):
        package_fonts(["tool"])

    def lacks_dpkg(*_: Any, **__: Any) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", lacks_dpkg)
    with refuses(DataError, "dpkg"):
        package_fonts(["fonts-x"])
