"""The parser of a command, and the checks of the files and folders that a command writes."""

import argparse
import difflib
import errno
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

from dynaconv.errors import RunError, listed, received
from dynaconv.files import STANDARD_OUTPUT, descriptor_of, is_stream, resolve_links


class Parser(argparse.ArgumentParser):
    """Parser that raises `RunError`, so that all errors are shown in the same way."""

    def error(self, message: str) -> NoReturn:
        """Raise `RunError`."""
        message = re.sub(r"^argument (\S+): (?=must)", r"\1 ", message).removeprefix("argument ")
        raise RunError(f"{message}; see `{self.prog} --help`.")

    def refuse(self, word: str) -> NoReturn:
        """Raise `RunError` for a word that the parser does not know."""
        name = word.partition("=")[0]
        if not name.startswith("-"):
            self.error(f"unknown argument {word!r}")
        self.error(f"unknown option {name}{_nearest(name, self._option_string_actions)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        if isinstance(action, argparse._SubParsersAction):
            self.error(f"unknown command {value!r}{_nearest(value, action.choices)}")
        known = listed(action.choices, last="or", quote=False)
        raise argparse.ArgumentError(action, f"must be {known}; got {received(value)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    return "".join(f", did you mean {near}" for near in difflib.get_close_matches(name, known, n=1))


def add_command(
    commands: Any,
    name: str,
    help_line: str,
    run: Callable[[argparse.Namespace, list[str]], int | None],
    epilog: str = "",
) -> argparse.ArgumentParser:
    """Add a command and return its parser.

    Args:
        commands: The subparsers of the program's parser.
        name, help_line, epilog: Name and description of the command.
        run: Executes the command; returns the exit code, or None for 0. It gets the parsed arguments and, if the
            command sets ``passes_on``, the arguments that the parser does not know.
    """
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=help_line, description=f"{help_line[0].upper()}{help_line[1:]}.", epilog=epilog, allow_abbrev=False
    )
    command.register("type", None, _text)
    command.register("type", Path, lambda text: Path(_text(text)))
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    command.set_defaults(run=run, parser=command, passes_on=False, outputs={}, overwrite=False, writes_by_default=False)
    return command


def _text(given: str) -> str:
    if not given:
        raise argparse.ArgumentTypeError("must not be empty")
    return given


def add_output(
    command: argparse.ArgumentParser,
    *flags: str,
    help_line: str,
    metavar: str = "FILE",
    required: bool = False,
    overwrite: bool = True,
) -> None:
    """Add a flag for a file or folder to write.

    It is refused if it exists: without exception, or with ``overwrite`` unless the flag ``--overwrite`` is given.

    Args:
        command: The parser of the command.
        flags: Names of the flag.
        help_line: Its description.
        metavar: "FILE", which may be ``-`` for standard output, or "DIR".
        required: Whether the flag is required.
        overwrite: Whether the command can replace what exists.
    """
    action = command.add_argument(
        *flags, metavar=metavar, type=_file if metavar == "FILE" else Path, required=required, help=help_line
    )
    if overwrite and "--overwrite" not in command._option_string_actions:
        command.add_argument("--overwrite", action="store_true", help="replace files that exist")
    command.set_defaults(outputs={**command.get_default("outputs"), action.dest: metavar})


def _file(given: str) -> Path:
    return STANDARD_OUTPUT if given == "-" else Path(_text(given))


@contextmanager
def prepared_outputs(arguments: argparse.Namespace) -> Iterator[None]:
    """Check the files and folders that a command will write, before it does any work.

    If one of them is standard output, everything that the command prints goes to standard error, so that the output
    holds that file and nothing else.

    Raises:
        RunError: An output cannot be written or exists, two flags name the same file, or ``--overwrite`` has no effect.
        PermissionError: The permissions do not allow a file to be written.
    """
    given = {name: getattr(arguments, name) for name in arguments.outputs if getattr(arguments, name)}
    if arguments.overwrite and not given and not arguments.writes_by_default:
        flags = listed((f"--{name}" for name in arguments.outputs), last="or", quote=False)
        raise RunError(f"--overwrite has no file to replace; pass {flags} too, or leave --overwrite out.")
    replaceable = "--overwrite" in arguments.parser._option_string_actions
    names_by_path: dict[Path, str] = {}
    for name, path in given.items():
        check = check_output if arguments.outputs[name] == "FILE" else _check_folder
        check(path, arguments.overwrite, replaceable=replaceable)
        other = names_by_path.setdefault(resolve_links(path), name)
        if other != name and resolve_links(path) != Path(os.devnull):
            raise RunError(f"--{other} and --{name} both write {path}; give each a file of its own.")
    if any(descriptor_of(path) == 1 for path in given.values()):
        with redirect_stdout(sys.stderr):
            yield
    else:
        yield


def check_output(file: Path, overwrite: bool, *, replaceable: bool = True) -> None:
    """Check that a file can be written.

    Raises:
        RunError: It is a folder, its folder does not exist, or it exists and ``overwrite`` is False.
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
    if file.is_file() and not overwrite:
        raise _exists(file, replaceable)


def _check_folder(folder: Path, overwrite: bool, *, replaceable: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunError(f"cannot write {folder}: it is a file; name a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise _exists(folder, replaceable)


def _exists(path: Path, replaceable: bool) -> RunError:
    return RunError(f"{path} exists; {'pass --overwrite to replace it' if replaceable else 'name another folder'}.")
