"""Atomic writing of files. Symbolic links are followed; devices and pipes are written into, not replaced."""

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
# Linux also stops following symbolic links after 40.
_MAX_LINKS = 40
_SUFFIX = ".tmp"
_LEFTOVER = re.compile(r"\..+\.\d+\.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path, whose content becomes that of ``path`` if the block ends without an error.

    A regular file is replaced and keeps its mode. Its content and its directory entry are flushed to the disk before
    this returns; until then, the old content stays. If ``path`` is a symbolic link, its target is replaced and the link
    stays. A device, a pipe or a descriptor of this process (``/dev/stdout``, or the ``/dev/fd/63`` of a shell's
    ``>(...)``) is written into.

    Raises:
        OSError: The operating system reports an error; `filename` is ``path``.
    """
    try:
        if is_stream(path):
            with tempfile.TemporaryDirectory() as folder:
                temporary = Path(folder) / path.name
                yield temporary
                _copy_into_stream(temporary, path)
        else:
            with _replacing_regular_file(resolve_links(path)) as temporary:
                yield temporary
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def resolve_links(path: Path) -> Path:
    """Return a path with all symbolic links resolved."""
    return Path(os.path.realpath(path))


def is_stream(path: Path) -> bool:
    """Whether a path exists and is not a regular file, so that it is written into and never replaced.

    Raises:
        OSError: The path is a folder, or its type cannot be read.
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
    """Return the descriptor of this process that a path names, such as 1 for ``/dev/stdout``; else None."""
    if path == STANDARD_OUTPUT:
        return 1
    descriptors = os.path.realpath("/proc/self/fd")
    # Follow one link at a time and stop at the descriptor. The target of its own link may be no path that can be
    # opened, or a file that opening would truncate.
    for _ in range(_MAX_LINKS):
        if path.name.isdecimal() and os.path.realpath(path.parent) == descriptors:
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


@contextmanager
def _replacing_regular_file(target: Path) -> Iterator[Path]:
    temporary = target.with_name(f".{target.name}.{os.getpid()}{_SUFFIX}")
    try:
        temporary.touch()
        if target.exists():
            mode = stat.S_IMODE(target.stat().st_mode)
            # Set the mode before the file has any content that others could read.
            temporary.chmod(mode | stat.S_IWUSR)
        else:
            mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        # Some writers, such as safetensors, create a file with another mode.
        if stat.S_IMODE(temporary.stat().st_mode) != mode:
            temporary.chmod(mode)
        _flush(temporary)
        temporary.replace(target)
        _flush(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    # Windows cannot open a folder as a descriptor.
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy_into_stream(source: Path, path: Path) -> None:
    """Write a file's bytes into a device, a pipe or a descriptor."""
    # Flush earlier output, so that it comes first.
    print(end="", flush=True)
    descriptor = descriptor_of(path)
    opened = os.open(path, os.O_WRONLY) if descriptor is None else os.dup(descriptor)
    with source.open("rb") as content, open(opened, "wb") as stream:
        shutil.copyfileobj(content, stream)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that a killed process left in a folder and its subfolders."""
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


def csv_text(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Return a CSV table. Missing values give empty cells."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write `csv_text` to a file."""
    write_text(path, csv_text(columns, rows))
