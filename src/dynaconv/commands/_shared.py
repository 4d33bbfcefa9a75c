"""What the commands share: their parser, and checks of what was given."""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

from dynaconv.errors import RunError
from dynaconv.files import STANDARD_OUTPUT, descriptor_of, is_stream, place_of


class Parser(argparse.ArgumentParser):
    """Raises what it finds wrong, so that every mistake is told in the same way."""

    def error(self, message: str) -> NoReturn:
        """Raise `RunError`."""
        raise RunError(f"{message}; see `{self.prog} --help`.")


def add_command(
    commands: Any, name: str, help_line: str, run: Callable[[argparse.Namespace, list[str]], None], epilog: str = ""
) -> argparse.ArgumentParser:
    """Add a command that ``run`` runs, and return its parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=help_line, description=f"{help_line[0].upper()}{help_line[1:]}.", epilog=epilog, allow_abbrev=False
    )
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    command.set_defaults(run=run, passes_on=False, outputs=())
    return command


def add_output(command: argparse.ArgumentParser, flag: str, help_line: str, *, required: bool = False) -> None:
    """Add a flag for a file to write, ``-`` for standard output."""
    action = command.add_argument(
        flag, metavar="FILE", type=_output, required=required, help=f"{help_line}; - for standard output"
    )
    command.set_defaults(outputs=(*command.get_default("outputs"), action.dest))


def _output(given: str) -> Path:
    return STANDARD_OUTPUT if given == "-" else Path(given)


@contextmanager
def prepared_outputs(arguments: argparse.Namespace) -> Iterator[None]:
    """Check the files that a command will write, before any work.

    If one of them is standard output, everything that the command prints goes to standard error, so that the output
    holds that file and nothing else.

    Raises:
        RunError: One cannot be written, or two are the same.
        PermissionError: The system does not allow one to be written.
    """
    given = {f"--{name}": getattr(arguments, name) for name in arguments.outputs if getattr(arguments, name)}
    places: dict[Path, str] = {}
    for flag, file in given.items():
        check_output(file)
        other = places.setdefault(place_of(file), flag)
        if other != flag and place_of(file) != Path(os.devnull):
            raise RunError(f"{other} and {flag} both write {file}; give each a file of its own.")
    if any(descriptor_of(file) == 1 for file in given.values()):
        with redirect_stdout(sys.stderr):
            yield
    else:
        yield


def check_output(file: Path) -> None:
    """Refuse a file to write that is a folder, that would lie in one that does not exist, or that is not allowed.

    Raises:
        RunError: It is a folder, or there is none for it.
        PermissionError: The system does not allow it to be written.
    """
    if file.is_dir():
        raise RunError(f"cannot write {file}: it is a folder; name a file.")
    if descriptor_of(file) is not None:
        return
    for folder in (file.parent, place_of(file).parent):
        if not folder.is_dir():
            raise RunError(f"cannot write {file}: there is no folder {folder}.")
    allowed = os.access(file, os.W_OK) if is_stream(file) else os.access(folder, os.W_OK | os.X_OK)
    if not allowed:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
