"""Code that the commands share: their parser, and checks of their output files."""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

from dynaconv.errors import RunError
from dynaconv.files import STANDARD_OUTPUT, descriptor_of, is_stream, resolve_links


class Parser(argparse.ArgumentParser):
    """Parser that raises `RunError`, so that all errors are shown in the same way."""

    def error(self, message: str) -> NoReturn:
        """Raise `RunError`."""
        raise RunError(f"{message}; see `{self.prog} --help`.")


def add_command(
    commands: Any, name: str, help_line: str, run: Callable[[argparse.Namespace, list[str]], None], epilog: str = ""
) -> argparse.ArgumentParser:
    """Add a command, which ``run`` executes, and return its parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=help_line, description=f"{help_line[0].upper()}{help_line[1:]}.", epilog=epilog, allow_abbrev=False
    )
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    command.set_defaults(run=run, passes_on=False, outputs=())
    return command


def add_output(command: argparse.ArgumentParser, flag: str, help_line: str, *, required: bool = False) -> None:
    """Add a flag for a file to write; ``-`` means standard output."""
    action = command.add_argument(
        flag, metavar="FILE", type=_output, required=required, help=f"{help_line}; - for standard output"
    )
    command.set_defaults(outputs=(*command.get_default("outputs"), action.dest))


def _output(given: str) -> Path:
    return STANDARD_OUTPUT if given == "-" else Path(given)


@contextmanager
def prepared_outputs(arguments: argparse.Namespace) -> Iterator[None]:
    """Check the files that a command will write, before it does any work.

    If one of them is standard output, everything that the command prints goes to standard error, so that the output
    holds that file and nothing else.

    Raises:
        RunError: A file cannot be written, or two flags name the same file.
        PermissionError: The permissions do not allow a file to be written.
    """
    given = {f"--{name}": getattr(arguments, name) for name in arguments.outputs if getattr(arguments, name)}
    flags_by_path: dict[Path, str] = {}
    for flag, file in given.items():
        check_output(file)
        other = flags_by_path.setdefault(resolve_links(file), flag)
        if other != flag and resolve_links(file) != Path(os.devnull):
            raise RunError(f"{other} and {flag} both write {file}; give each a file of its own.")
    if any(descriptor_of(file) == 1 for file in given.values()):
        with redirect_stdout(sys.stderr):
            yield
    else:
        yield


def check_output(file: Path) -> None:
    """Check that a file can be written.

    Raises:
        RunError: It is a folder, or its folder does not exist.
        PermissionError: The permissions do not allow it to be written.
    """
    if file.is_dir():
        raise RunError(f"cannot write {file}: it is a folder; name a file.")
    if descriptor_of(file) is not None:
        return
    for folder in (file.parent, resolve_links(file).parent):
        if not folder.is_dir():
            raise RunError(f"cannot write {file}: there is no folder {folder}.")
    allowed = os.access(file, os.W_OK) if is_stream(file) else os.access(folder, os.W_OK | os.X_OK)
    if not allowed:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
