"""Files that are either whole or absent."""

from pathlib import Path

import pytest

from dynaconv.errors import ExportError
from dynaconv.export.target import verified_target
from tests.messages import refuses


def test_all_files_move_to_their_place(tmp_path: Path) -> None:
    with verified_target(tmp_path / "net.xml", suffixes=(".xml",), companions=(".bin",)) as file:
        assert file.name == "net.xml"
        assert file.parent.parent == tmp_path
        file.write_text("graph")
        file.with_suffix(".bin").write_text("weights")
        assert not (tmp_path / "net.xml").exists()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["net.bin", "net.xml"]


@pytest.mark.parametrize("error", [ExportError("differs"), KeyboardInterrupt()])
def test_a_failure_leaves_no_file_and_the_old_one(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "net.onnx"
    target.write_text("old")

    def export() -> None:
        with verified_target(target, suffixes=(".onnx",), overwrite=True) as file:
            file.write_text("new")
            raise error

    with pytest.raises(type(error)):
        export()
    assert [each.name for each in tmp_path.iterdir()] == ["net.onnx"]
    assert target.read_text() == "old"


def test_overwriting_is_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "net.onnx"
    target.write_text("old")
    with refuses(ExportError, "overwrite=True"), verified_target(target, suffixes=(".onnx",)):
        pytest.fail("the block must not run")
    with verified_target(target, suffixes=(".onnx",), overwrite=True) as file:
        file.write_text("new")
    assert target.read_text() == "new"


def test_a_companion_in_the_way_counts(tmp_path: Path) -> None:
    (tmp_path / "net.bin").write_text("other")
    with (
        refuses(ExportError, "net.bin"),
        verified_target(tmp_path / "net.xml", suffixes=(".xml",), companions=(".bin",)),
    ):
        pytest.fail("the block must not run")


def test_impossible_places_are_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        with refuses(ExportError), verified_target(path, suffixes=(".onnx",)):
            pytest.fail("the block must not run")

    refuse(tmp_path / "missing" / "net.onnx")
    refuse(tmp_path / "net.pt")
    (tmp_path / "folder.onnx").mkdir()
    refuse(tmp_path / "folder.onnx")
    monkeypatch.setattr("os.access", lambda *_: False)
    refuse(tmp_path / "net.onnx")
