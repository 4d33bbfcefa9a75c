"""The one way to write a file: whole or not at all, through links, and into devices and pipes instead of over them."""

import csv
import errno
import io
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STANDARD_OUTPUT = Path("/dev/stdout")
# The system itself gives up at 40.
_MOST_LINKS = 40
_SUFFIX = ".tmp"
_LEFTOVER = re.compile(r"\..+\.\d+\.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path, whose content becomes that of ``path`` when the block ends without an error.

    A regular file is replaced: bytes and name are on the disk before this returns, what was there before stays until
    they are, and its mode is kept. A symbolic link stays; the file that it leads to is replaced. A device, a pipe or a
    descriptor of this process (``/dev/stdout``, the ``/dev/fd/63`` of a shell's ``>(...)``) is written into.

    Raises:
        OSError: The system refuses; `filename` is ``path``.
    """
    try:
        if is_stream(path):
            with tempfile.TemporaryDirectory() as folder:
                temporary = Path(folder) / path.name
                yield temporary
                _pour(temporary, path)
        else:
            with _beside(place_of(path)) as temporary:
                yield temporary
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def place_of(path: Path) -> Path:
    """Where the symbolic links of a path lead."""
    return Path(os.path.realpath(path))


def is_stream(path: Path) -> bool:
    """Whether a path is no regular file, present or absent, and so is written into and never replaced.

    Raises:
        OSError: It is a folder, or the system does not say.
    """
    if descriptor_of(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return not stat.S_ISREG(mode)


def descriptor_of(path: Path) -> int | None:
    """The descriptor of this process that a path names, such as 1 for ``/dev/stdout``; None for any other path."""
    if path == STANDARD_OUTPUT:
        return 1
    descriptors = os.path.realpath("/proc/self/fd")
    # Step by step: what a descriptor's own link says is no path that could be opened, or one that would be truncated.
    for _ in range(_MOST_LINKS):
        if path.name.isdecimal() and os.path.realpath(path.parent) == descriptors:
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    temporary = place.with_name(f".{place.name}.{os.getpid()}{_SUFFIX}")
    try:
        temporary.touch()
        if place.exists():
            mode = stat.S_IMODE(place.stat().st_mode)
            # Before there is anything to read in it.
            temporary.chmod(mode | stat.S_IWUSR)
        else:
            mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        # Some writers, such as safetensors, make a file of another mode.
        if stat.S_IMODE(temporary.stat().st_mode) != mode:
            temporary.chmod(mode)
        _flush(temporary)
        temporary.replace(place)
        _flush(place.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    # Windows has no descriptors of folders.
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _pour(source: Path, path: Path) -> None:
    """Write a file's bytes into a device, a pipe or a descriptor."""
    # What was printed before comes first.
    print(end="", flush=True)
    descriptor = descriptor_of(path)
    opened = os.open(path, os.O_WRONLY) if descriptor is None else os.dup(descriptor)
    with source.open("rb") as content, open(opened, "wb") as stream:
        shutil.copyfileobj(content, stream)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that a killed process left in a folder and the folders in it."""
    for path in folder.rglob(f".*{_SUFFIX}"):
        if _LEFTOVER.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented, with a final newline."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write a CSV table; a cell that a row lacks stays empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())
