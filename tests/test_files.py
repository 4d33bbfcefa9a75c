"""Files are written whole or not at all, through links, and into devices and pipes instead of over them."""

import ast
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from dynaconv import profile
from dynaconv.errors import DynaconvError
from dynaconv.export.target import verified_target
from dynaconv.files import STANDARD_OUTPUT, replacing, write_csv, write_json, write_text
from tests.messages import refuses

ROOT = Path(__file__).parents[1]
NET = nn.Sequential(nn.Conv2d(1, 2, 3))


def _trained(path: Path) -> None:
    from dynaconv.train.checkpoint import save_trained

    save_trained(path, NET, {"model": "x"})


def _checkpoint(path: Path) -> None:
    from dynaconv.train.saving import WholeCheckpoints

    WholeCheckpoints().save_checkpoint({"state_dict": NET.state_dict()}, path)


def _weights(path: Path) -> None:
    from dynaconv.train.checkpoint import write_weights

    write_weights(path, NET.state_dict(), {})


def _figure(path: Path) -> None:
    from matplotlib.figure import Figure

    from dynaconv.explain.figures import save

    save(Figure(), path)


def _export(path: Path) -> None:
    with verified_target(path, suffixes=(path.suffix,), overwrite=True) as file:
        file.write_bytes(b"network")


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: write_text(path, "new"),
    "json": lambda path: write_json(path, {"new": 1}),
    "csv": lambda path: write_csv(path, ["new"], [{"new": 1}]),
    "profile as json": lambda path: profile(NET, (1, 8, 8)).to_json(path),
    "profile as csv": lambda path: profile(NET, (1, 8, 8)).to_csv(path),
    "trained network": _trained,
    "checkpoint": _checkpoint,
    "weights": _weights,
    "figure": _figure,
    "exported network": _export,
}
every_writer = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())


@every_writer
def test_a_new_file_respects_the_umask(write: Callable[[Path], object], tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


@every_writer
def test_a_file_keeps_its_mode_and_is_replaced(write: Callable[[Path], object], tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("old")
    file.chmod(0o604)
    with file.open() as opened:
        write(file)
        # A reader of the old file never sees half of the new one.
        assert opened.read() == "old"
    assert stat.S_IMODE(file.stat().st_mode) == 0o604
    assert file.read_bytes() != b"old"


@every_writer
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_target_is_replaced(write: Callable[[Path], object], exists: bool, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link, further = tmp_path / "far" / "target", tmp_path / "link", tmp_path / "further"
    if exists:
        target.write_text("old")
        target.chmod(0o604)
    link.symlink_to(target)
    further.symlink_to("link")
    write(further)
    assert (os.readlink(further), os.readlink(link)) == ("link", str(target))
    assert target.read_bytes() not in (b"", b"old")
    assert [file.name for file in target.parent.iterdir()] == ["target"]
    if exists:
        assert stat.S_IMODE(target.stat().st_mode) == 0o604


@every_writer
def test_a_pipe_a_device_and_a_descriptor_are_written_into(write: Callable[[Path], object], tmp_path: Path) -> None:
    write(tmp_path / "file")
    wanted = (tmp_path / "file").read_bytes()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write(pipe)
    reader.join(timeout=60)
    assert pipe.is_fifo()
    # Archives and pictures hold the time or are not the same twice.
    assert len(read[0]) == pytest.approx(len(wanted), rel=0.1)
    if os.access("/dev/null", os.W_OK):
        (tmp_path / "null").symlink_to("/dev/null")
        write(tmp_path / "null")
        assert Path("/dev/null").is_char_device()
    # As for a shell's `>> file`: what is there stays, and what follows comes behind.
    with (tmp_path / "file").open("ab") as stream:
        (tmp_path / "descriptor").symlink_to(f"/dev/fd/{stream.fileno()}")
        write(tmp_path / "descriptor")
        stream.write(b"end")
    assert (tmp_path / "file").read_bytes().startswith(wanted)
    assert (tmp_path / "file").read_bytes().endswith(b"end")


@every_writer
def test_a_full_disk_is_one_error_that_names_the_file(write: Callable[[Path], object], tmp_path: Path) -> None:
    link = tmp_path / "full"
    link.symlink_to("/dev/full")
    with refuses((OSError, DynaconvError), "full") as caught:
        write(link)
    assert "tmp." not in str(caught.value)
    assert Path("/dev/full").is_char_device()


@every_writer
def test_a_folder_is_refused(write: Callable[[Path], object], tmp_path: Path) -> None:
    with refuses((OSError, DynaconvError)):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@every_writer
def test_a_folder_that_may_not_be_written_to_is_named(write: Callable[[Path], object], tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises((OSError, DynaconvError), match=r"Permission denied|cannot be written to"):
        write(tmp_path / "x")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_keeps_the_old_file(error: BaseException, tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("old")

    def write() -> None:
        with replacing(file) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)) as caught:
        write()
    assert not isinstance(caught.value, OSError) or caught.value.filename == str(file)
    assert [each.name for each in tmp_path.iterdir()] == ["x"]
    assert file.read_text() == "old"


def test_a_private_file_is_private_while_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("old")
    file.chmod(0o600)
    with replacing(file) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        temporary.write_text("new")


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        write_text(tmp_path / "loop", "x")
    assert (tmp_path / "loop").is_symlink()


def test_standard_output_keeps_its_order(tmp_path: Path) -> None:
    code = "from dynaconv.files import *; print('one'); write_text(STANDARD_OUTPUT, 'two\\n'); print('three')"
    for redirected in (False, True):
        with (tmp_path / "out").open("w") as file:
            done = subprocess.run(
                [sys.executable, "-c", code], stdout=file if redirected else subprocess.PIPE, check=True, text=True
            )
        assert (done.stdout or (tmp_path / "out").read_text()) == "one\ntwo\nthree\n"
    assert str(STANDARD_OUTPUT) == "/dev/stdout"


# What names the file of `replacing` or `verified_target`, or one in a temporary folder.
_TEMPORARY = {"temporary", "file", "prepared", "buffer"}
_METHODS = {"write_text", "write_bytes", "savefig", "save", "save_model"}
_FUNCTIONS = {"save_file"}
# A log that several processes append to.
_OTHERS = {"train/data/corrupt.py"}


def _writes(call: ast.Call) -> bool:
    """Whether a call writes a file under its final name."""
    method = isinstance(call.func, ast.Attribute)
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "open":
        given = [*call.args, *(each.value for each in call.keywords)]
        modes = [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        return any(set(mode) & set("wax") and set(mode) <= set("rwaxbt+") for mode in modes)
    if name not in (_METHODS if method else _FUNCTIONS):
        return False
    parts = [*call.args, *([call.func.value] if isinstance(call.func, ast.Attribute) else [])]
    names = {node.id for part in parts for node in ast.walk(part) if isinstance(node, ast.Name)}
    return not names & _TEMPORARY


def test_the_package_writes_files_in_one_way_only() -> None:
    folder = ROOT / "src" / "dynaconv"
    found = [
        f"{file.relative_to(folder)}:{node.lineno} {ast.unparse(node)}"
        for file in folder.rglob("*.py")
        if file != folder / "files.py" and str(file.relative_to(folder)) not in _OTHERS
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and _writes(node)
    ]
    assert found == []
