"""What the commands share: their parser, and checks of what was given."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from dynaconv.errors import RunError


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
    command.set_defaults(run=run, passes_on=False)
    return command


def check_parent(file: Path | None) -> None:
    """Refuse a file to write that is a folder, or that would lie in one that does not exist."""
    if file is not None and file.is_dir():
        raise RunError(f"cannot write {file}: it is a folder; name a file.")
    if file is not None and not file.parent.is_dir():
        raise RunError(f"cannot write {file}: there is no folder {file.parent}.")
