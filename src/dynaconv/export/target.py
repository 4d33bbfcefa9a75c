"""Writes an export to a hidden folder and moves it to its path after verification, so that no partial file is left."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dynaconv.errors import ExportError, listed
from dynaconv.files import replacing, resolve_links
from dynaconv.interrupts import propagating_interrupts


@contextmanager
def verified_target(
    path: str | Path, *, suffixes: Sequence[str], overwrite: bool = False, companions: Sequence[str] = ()
) -> Iterator[Path]:
    """Yield a path in a hidden folder next to ``path``; at the end, move the files written there next to ``path``.

    The yielded path already has the final file name, so that several files of one export can refer to each other by
    name. If the block raises an exception, no file is left and an existing file at ``path`` does not change. Links,
    devices and the mode of an existing file are handled as by `dynaconv.files.replacing`.

    Args:
        path: Final path of the file.
        suffixes: File endings of the format; ``path`` must have one of them.
        overwrite: Whether existing files may be replaced.
        companions: Suffixes of further files that the format writes; each replaces the suffix of ``path``.

    Raises:
        ExportError: Before the block: ``path`` has another ending or is a folder, a file exists and ``overwrite`` is
            False, or the folder does not exist or cannot be written to. After the block: the files cannot be moved.
        KeyboardInterrupt: Ctrl+C was pressed during the block, even if the block handled the exception.
    """
    target = check_target(path, suffixes=suffixes, overwrite=overwrite, companions=companions)
    try:
        hidden = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise _unwritable(target.parent, error) from error
    try:
        with propagating_interrupts():
            yield hidden / target.name
        with propagating_interrupts(at_end=True):
            _move(hidden, target)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _move(hidden: Path, target: Path) -> None:
    # Move the main file last: if it exists, its companions exist too.
    for file in sorted(hidden.iterdir(), key=lambda each: each.name == target.name):
        try:
            with replacing(target.parent / file.name) as temporary:
                # The target of a link may be on another file system.
                shutil.move(file, temporary)
        except OSError as error:
            raise ExportError(f"{file.name} cannot be moved to {target.parent}: {_reason(error)}.") from error


def check_target(
    path: str | Path, *, suffixes: Sequence[str], overwrite: bool = False, companions: Sequence[str] = ()
) -> Path:
    """Run the checks of `verified_target` that write nothing, and return ``path`` with ``~`` expanded."""
    target = Path(path).expanduser()
    if target.suffix not in suffixes:
        raise ExportError(f"{target} should end in {listed(suffixes, last='or')}.")
    files = (target, *(target.with_suffix(suffix) for suffix in companions))
    for folder in (target.parent, *(resolve_links(each).parent for each in files)):
        if not folder.is_dir():
            raise ExportError(f"the folder {folder} for {target.name} does not exist; create it first.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ExportError(f"the folder {folder} cannot be written to; choose another, or change its permissions.")
    for each in files:
        if each.is_dir():
            raise ExportError(f"{each} is a folder; give another path.")
        if each.exists() and not overwrite:
            raise ExportError(f"{each} already exists; pass overwrite=True to replace it.")
    return target


def _unwritable(folder: Path, error: OSError) -> ExportError:
    return ExportError(f"the folder {folder} cannot be written to: {_reason(error)}.")


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).rstrip(".")
