"""The data set of characters: which are drawn, which fonts are held out, what is said where something does not fit."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dynaconv.errors import DataError
from dynaconv.train.data import glyph_bank as drawing
from dynaconv.train.data import glyphs as module
from dynaconv.train.data.bank_cache import cache_folder
from dynaconv.train.data.glyph_bank import GlyphBank, GlyphOptions, glyph_bank, held_out
from dynaconv.train.data.glyphs import MINI_CHARACTERS, manifest, standard_files
from dynaconv.train.data.source import Source
from dynaconv.train.data.sources import load_source
from tests.messages import refuses, spelled
from tests.train.fonts import make_families, make_font

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight families with the letters a to f; no test changes the folder."""
    return make_families(tmp_path_factory.mktemp("fonts"))


def load(folder: Path, **options: Any) -> Source:
    return load_source("glyphs", data_dir=folder, options=options)


def bank_of(folder: Path, **options: Any) -> GlyphBank:
    files = [(path, 0) for path in sorted(folder.glob("*.ttf"))]
    return glyph_bank(files, GlyphOptions(**options), side=48, default=None)


def test_a_folder_of_fonts_becomes_a_data_set(families: Path) -> None:
    held_out_fonts = {"val_fonts": 2, "test_fonts": ["Family 3", "Family 5"]}
    source = load(families, characters="dab", **held_out_fonts)
    assert source.class_names == ("d", "a", "b")
    assert source.train.bank.shape == (4 * 3, 1, 48, 48)
    assert source.train.bank_targets.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    # Two faces of three characters are drawn 334 times each: at least 2,000 pictures.
    assert source.validation.targets.tolist() == [0, 0, 1, 1, 2, 2] * 334
    assert source.test.images.shape == (6 * 334, 1, 32, 32)
    assert (source.channels, source.image_size, source.style, source.flip, source.note) == (1, 32, "small", False, "")
    again = load(families, characters="dab", **held_out_fonts)
    assert torch.equal(again.test.images, source.test.images)
    large = load_source("glyphs", data_dir=families, image_size=40, options={"characters": "ab"})
    assert large.train.bank.shape[2:] == (60, 60)
    assert large.test.images.shape[2:] == (40, 40)


def test_held_out_fonts_are_those_that_were_named(families: Path) -> None:
    bank = bank_of(families)
    roles = held_out(bank, GlyphOptions(test_fonts=["Family 3", "Family [56]"], val_fonts=["Family 0"]))
    assert [role for _, role in sorted(zip((face.family for face in bank.faces), roles, strict=True))] == [
        "val",
        "train",
        "train",
        "test",
        "train",
        "test",
        "test",
        "train",
    ]


def test_by_default_a_quarter_tests_and_an_eighth_validates(families: Path) -> None:
    bank = bank_of(families)
    roles = held_out(bank, GlyphOptions())
    assert sorted(roles) == ["test"] * 2 + ["train"] * 5 + ["val"]
    assert roles == held_out(bank, GlyphOptions())
    assert any(held_out(bank, GlyphOptions(seed=seed)) != roles for seed in range(1, 5))
    # A named test set leaves the choice of the validation set to the seed.
    assert sorted(held_out(bank, GlyphOptions(test_fonts=["Family 1"]))) == ["test"] + ["train"] * 6 + ["val"]


@pytest.mark.parametrize("seed", range(6))
def test_no_family_and_no_design_is_on_both_sides(tmp_path: Path, seed: int) -> None:
    folder = make_families(tmp_path)
    make_font(folder / "bold.ttf", "Family 0 Bold", "abcdef", design=20)
    make_font(folder / "condensed.ttf", "Family 0 Condensed", "abcdef", design=21)
    make_font(folder / "copy.ttf", "Other Name", "abcdef", design=1, bold=3)
    shutil.copy(folder / "2.ttf", folder / "same-file.ttf")
    source_bank = bank_of(folder)
    roles = dict(
        zip((face.path.name for face in source_bank.faces), held_out(source_bank, GlyphOptions(seed=seed)), strict=True)
    )
    assert roles["bold.ttf"] == roles["condensed.ttf"] == roles["0.ttf"]
    assert roles["copy.ttf"] == roles["1.ttf"]
    assert roles["same-file.ttf"] == roles["2.ttf"]
    assert set(roles.values()) == {"train", "val", "test"}


def test_characters_are_those_that_all_fonts_share(tmp_path: Path) -> None:
    folder = make_families(tmp_path, "abcβδ-3")
    make_font(folder / "few.ttf", "Few", "bcβδλ-3", design=30)
    assert bank_of(folder).characters == tuple("3bcβδ")
    assert bank_of(folder, script="greek").characters == tuple("βδ")
    assert bank_of(folder, script="Basic Latin").characters == tuple("3bc")
    two = bank_of(folder, num_characters=2).characters
    assert two == bank_of(folder, num_characters=2).characters
    assert set(two) < set("3bcβδ")
    assert any(bank_of(folder, num_characters=2, seed=seed).characters != two for seed in range(1, 6))


def test_fonts_without_the_characters_are_left_out_and_told(tmp_path: Path) -> None:
    folder = make_families(tmp_path / "fonts")
    corners = [(0, 0), (5, 5)]
    make_font(folder / "lacks.ttf", "Lacks", "abd", design=40)
    make_font(folder / "blank.ttf", "Blank", "abcd", design=41, cells={"b": []})
    make_font(folder / "tofu.ttf", "Tofu", "abcd", design=42, cells={"c": corners, ".notdef": corners})
    bank = bank_of(folder, characters="abcd")
    assert {face.path.name for face in bank.faces} == {f"{number}.ttf" for number in range(8)}
    assert bank.note == "3 font files lack characters and are left out, such as blank.ttf ('b')."
    assert load(folder, characters="abcd").note == bank.note
    # A font without any Greek does not keep the others from sharing it.
    greek = make_families(tmp_path / "greek", "βδλ")
    make_font(greek / "latin.ttf", "Latin", "abc", design=43)
    bank = bank_of(greek, script="Greek")
    assert bank.characters == tuple("βδλ")
    assert len(bank.faces) == 8


def test_characters_that_look_alike_everywhere_are_one_class(tmp_path: Path) -> None:
    for number in range(4):
        make_font(tmp_path / f"{number}.ttf", f"F{number}", "AB\u0410", design=number, glyphs={"A": "a", "\u0410": "a"})
    bank = bank_of(tmp_path)
    assert bank.characters == ("A", "B")
    assert bank.note == "Characters that every font draws like another one are left out: 1."
    with refuses(DataError, "U+0041"):
        bank_of(tmp_path, characters="AB\u0410")


@pytest.mark.parametrize(
    "options",
    [
        {"characters": "xy"},
        {"characters": "aa"},
        {"characters": "a"},
        {"characters": 123},
        {"characters": ["a", "bc"]},
        {"characters": "ab", "script": "Latin"},
        {"script": "Latn"},
        {"script": "Cyrillic"},
        {"num_characters": 7},
        {"num_characters": 1},
        {"num_characters": "all"},
        {"seed": 0.5},
        {"test_fonts": ["Famly 1"]},
        {"test_fonts": "Family 1"},
        {"test_fonts": 0},
        {"test_fonts": ["*"]},
        {"test_fonts": 7},
        {"test_fonts": ["Family 1"], "val_fonts": ["Family 1"]},
        {"packages": ["fonts-x"]},
        {"packages": "fonts-x"},
        {"font": "x"},
    ],
    ids=spelled,
)
def test_what_does_not_fit_is_one_sentence(families: Path, options: dict[str, Any]) -> None:
    with refuses(DataError):
        load(families, **options)


def test_a_design_cannot_be_held_out_twice(tmp_path: Path) -> None:
    folder = make_families(tmp_path)
    make_font(folder / "copy.ttf", "Other Name", "abcdef", design=1, bold=3)
    with refuses(DataError, "Family 1"):
        load(folder, test_fonts=["Other Name"], val_fonts=["Family 1"])


def test_too_few_families_are_told(tmp_path: Path) -> None:
    with refuses(DataError):
        load(make_families(tmp_path, count=2))
    with refuses(DataError):
        load(tmp_path / "nowhere")
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    with refuses(DataError, "broken.ttf"):
        load(tmp_path)


def test_the_bank_is_drawn_once_and_again_when_a_font_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_families(tmp_path / "fonts")
    calls = []
    original = drawing._draw_bank
    monkeypatch.setattr(drawing, "_draw_bank", lambda *arguments: (calls.append(1), original(*arguments))[1])
    first = load(folder)
    assert torch.equal(load(folder, seed=0).train.bank, first.train.bank)
    assert len(calls) == 1
    load(folder, characters="abc")
    assert len(calls) == 2
    make_font(folder / "0.ttf", "Family 0", "abcdef", design=50)
    assert not torch.equal(load(folder).train.bank, first.train.bank)
    assert len(calls) == 3
    for path in (cache_folder() / "banks").rglob("output.pkl"):
        path.write_bytes(path.read_bytes()[:500])
    load(folder)
    assert len(calls) == 4


def test_the_mini_set_needs_nothing_and_holds_out_whole_families() -> None:
    source = load_source("glyphs-mini")
    assert source.class_names == tuple(MINI_CHARACTERS)
    assert len(set(MINI_CHARACTERS)) == len(MINI_CHARACTERS)
    assert source.note == ""
    classes = len(MINI_CHARACTERS)
    assert len(source.train.bank) == 8 * classes
    assert len(source.validation.targets) == len(source.test.targets) == 6 * 4 * classes
    pictures = torch.cat([source.train.pictures(0, 0, range(4000))[0], source.test.images]).double() / 255
    assert float(pictures.mean()) == pytest.approx(source.mean[0], abs=0.02)
    assert float(pictures.std()) == pytest.approx(source.std[0], abs=0.03)


# The standard set: its file is always checked, its fonts where Debian's packages are installed.


def test_the_manifest_is_complete_and_splits_by_family() -> None:
    found = manifest()
    faces = found["faces"]
    assert len(set(found["characters"])) == len(found["characters"]) == 500
    assert {face["package"] for face in faces} == set(found["packages"])
    assert all(package["version"] and package["licence"] for package in found["packages"].values())
    assert all(len(face["sha256"]) == 64 for face in faces)
    assert len({(face["file"], face["index"]) for face in faces}) == len(faces)
    counts = {role: sum(face["role"] == role for face in faces) for role in ("train", "val", "test")}
    assert counts == {"train": 35, "val": 8, "test": 18}
    roles: dict[str, set[str]] = {}
    for face in faces:
        roles.setdefault(face["family"], set()).add(face["role"])
        roles.setdefault(face["sha256"], set()).add(face["role"])
    assert all(len(found) == 1 for found in roles.values())


def small_manifest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Put three made fonts in the place of the standard set."""
    paths = [make_font(folder / f"{n}.ttf", f"Family {n}", "abc", design=n) for n in range(3)]
    faces = [
        {
            "package": f"fonts-{number}",
            "file": str(path),
            "index": 0,
            "family": f"Family {number}",
            "role": role,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for number, (path, role) in enumerate(zip(paths, ("train", "val", "test"), strict=True))
    ]
    packages = {f"fonts-{number}": {"version": "1.2-3", "licence": "x"} for number in range(3)}
    monkeypatch.setattr(module, "manifest", lambda: {"characters": "abc", "packages": packages, "faces": faces})
    return paths


def test_the_standard_set_has_the_roles_of_its_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_manifest(tmp_path, monkeypatch)
    source = load_source("glyphs", options={"num_characters": 2})
    assert len(source.class_names) == 2
    assert [len(part) for part in (source.train.bank, source.validation, source.test)] == [2, 2000, 2000]
    assert load_source("glyphs").class_names == ("a", "b", "c")
    other = load_source("glyphs", options={"test_fonts": ["Family 0"], "val_fonts": ["Family 2"]})
    assert other.train.bank.shape[0] == 3


def test_characters_that_held_out_fonts_lack_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = small_manifest(tmp_path, monkeypatch)
    make_font(paths[0], "Family 0", "abcd", design=0)
    module.manifest()["faces"][0]["sha256"] = hashlib.sha256(paths[0].read_bytes()).hexdigest()
    with refuses(DataError):
        load_source("glyphs", options={"characters": "abcd"})


def test_missing_packages_and_other_versions_name_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = small_manifest(tmp_path, monkeypatch)
    make_font(paths[1], "Family 1", "abc", design=9)
    with refuses(DataError, "--reinstall"):
        load_source("glyphs")
    for path in paths[1:]:
        path.unlink()
    with refuses(DataError, "fonts-1"):
        load_source("glyphs")


def test_the_standard_set_is_drawn_and_no_design_has_two_roles() -> None:
    try:
        files = standard_files()
    except DataError as error:
        pytest.skip(str(error))
    bank = glyph_bank(list(files), GlyphOptions(num_characters=20), side=48, default=tuple(manifest()["characters"]))
    assert (len(bank.faces), len(bank.characters), bank.note) == (61, 20, "")
    assert [face.family for face in bank.faces] == [face["family"] for face in manifest()["faces"]]
    roles: dict[int, set[str]] = {}
    for face, group in zip(bank.faces, bank.groups, strict=True):
        roles.setdefault(group, set()).add(files[face.path, face.index])
    assert all(len(found) == 1 for found in roles.values())
    source = load_source("glyphs", options={"num_characters": 20})
    assert (len(source.train.bank), len(source.validation), len(source.test)) == (700, 13 * 160, 6 * 360)
