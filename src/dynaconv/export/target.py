"""Where an export goes: written beside its place and moved there once it is verified, so that it is whole or absent."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dynaconv.errors import ExportError, listed
from dynaconv.files import place_of, replacing
from dynaconv.interrupts import passing_interrupts


@contextmanager
def verified_target(
    path: str | Path, *, suffixes: Sequence[str], overwrite: bool = False, companions: Sequence[str] = ()
) -> Iterator[Path]:
    """Give a path to write to, in a hidden folder beside ``path``; what is there moves to its place at the end.

    The file written has its final name, so what lies beside it (weights of their own) may refer to it by name. When the
    block raises, nothing is left and what was at ``path`` is as it was. Links, devices and the mode of a file that is
    there are treated as by `dynaconv.files.replacing`.

    Args:
        path: Where the file shall stand.
        suffixes: Which endings the format has; ``path`` must have one of them.
        overwrite: Whether a file that is there may be replaced.
        companions: Suffixes of further files that the format writes, in place of the one ``path`` has.

    Raises:
        ExportError: Before the block: another ending, a file in the way, no such folder, or one not to be written to.
            After it: the files cannot be moved into place.
        KeyboardInterrupt: Ctrl+C came inside the block, whatever the block made of it.
    """
    target = check_target(path, suffixes=suffixes, overwrite=overwrite, companions=companions)
    try:
        hidden = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise _unwritable(target.parent, error) from error
    try:
        with passing_interrupts():
            yield hidden / target.name
        with passing_interrupts(at_end=True):
            _move(hidden, target)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _move(hidden: Path, target: Path) -> None:
    # The file that one opens comes last: where it is, the rest is too.
    for file in sorted(hidden.iterdir(), key=lambda each: each.name == target.name):
        try:
            with replacing(target.parent / file.name) as temporary:
                # A link may lead to another file system.
                shutil.move(file, temporary)
        except OSError as error:
            raise ExportError(f"cannot put {file.name} into {target.parent}: {_reason(error)}.") from error


def check_target(
    path: str | Path, *, suffixes: Sequence[str], overwrite: bool = False, companions: Sequence[str] = ()
) -> Path:
    """Return ``path`` with its home folder expanded, after the checks of `verified_target` that need no writing."""
    target = Path(path).expanduser()
    if target.suffix not in suffixes:
        raise ExportError(f"{target} should end in {listed(suffixes, last='or')}.")
    files = (target, *(target.with_suffix(suffix) for suffix in companions))
    for folder in (target.parent, *(place_of(each).parent for each in files)):
        if not folder.is_dir():
            raise ExportError(f"there is no folder {folder} to write {target.name} to; make it first.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ExportError(f"the folder {folder} cannot be written to; choose another, or change its permissions.")
    for each in files:
        if each.is_dir():
            raise ExportError(f"{each} is a folder; give another path.")
        if each.exists() and not overwrite:
            raise ExportError(f"{each} is there already; pass overwrite=True to replace it.")
    return target


def _unwritable(folder: Path, error: OSError) -> ExportError:
    return ExportError(f"the folder {folder} cannot be written to: {_reason(error)}.")


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).rstrip(".")
