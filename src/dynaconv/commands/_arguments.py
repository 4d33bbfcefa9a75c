"""The arguments that several commands have, each defined once. docs/command-line.md describes them."""

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dynaconv.commands._shared import add_output
from dynaconv.errors import RunError, received

Size = tuple[int | None, int, int]
"""Channels, or None for the network's own, height and width."""
CHECKPOINT = "a run folder, model.safetensors or .ckpt"


def add_checkpoint(
    command: argparse.ArgumentParser, *, names: bool = False, several: bool = False, optional: bool = False
) -> None:
    """Add the network, or several, as positional arguments; with ``names``, a timm name is accepted too."""
    command.add_argument(
        "checkpoints" if several else "checkpoint",
        metavar="CHECKPOINT",
        nargs=("*" if optional else "+") if several else None,
        help=f"{CHECKPOINT}, or a timm name, dynaconv's included" if names else CHECKPOINT,
    )


def add_out(command: argparse.ArgumentParser, help_line: str, **options: Any) -> None:
    """Add ``-o/--out`` for the file or folder that a command makes; ``options`` are those of `add_output`."""
    add_output(command, "-o", "--out", help_line=help_line, **options)


def add_json(command: argparse.ArgumentParser, content: str) -> None:
    """Add ``--json``, for the results of a command."""
    add_output(command, "--json", help_line=f"also write {content} as JSON; - for standard output")


def add_batch_size(command: argparse.ArgumentParser, default: int, help_line: str = "images per step") -> None:
    """Add ``--batch-size``."""
    command.add_argument(
        "--batch-size", metavar="N", type=integer(1), default=default, help=f"{help_line}; by default {default}"
    )


def add_size(command: argparse.ArgumentParser) -> None:
    """Add ``--size``, for the size of an image."""
    command.add_argument("--size", type=_size, help="of an image, 3x224x224 or 224; by default the network's")


def add_data(command: argparse.ArgumentParser, note: str = "") -> None:
    """Add ``--data`` and ``--data-dir``; ``note`` starts their help lines."""
    command.add_argument("--data", metavar="NAME", help=f"{note}a data set; by default that of the training")
    command.add_argument("--data-dir", metavar="DIR", help=f"{note}folder of the data")


def add_split(command: argparse.ArgumentParser) -> None:
    """Add ``--split``, for a part of the data."""
    command.add_argument("--split", choices=("train", "val", "test"), default="test", help="part of the data (test)")


def add_seed(command: argparse.ArgumentParser, help_line: str, *, default: int | None = 0) -> None:
    """Add ``--seed``; a command that must know whether it was given takes None for 0."""
    command.add_argument("--seed", metavar="N", type=integer(0, 2**32 - 1), default=default, help=f"{help_line} (0)")


def add_device(command: argparse.ArgumentParser) -> None:
    """Add ``--device``; `find_device` returns the device."""
    command.add_argument("--device", default="auto", help="cpu, cuda, ...; by default cuda if available, else cpu")


def add_option(command: argparse.ArgumentParser, flag: str, help_line: str) -> None:
    """Add a flag that may be repeated with KEY=VALUE; `parse_options` parses the words."""
    command.add_argument(flag, metavar="KEY=VALUE", action="append", default=[], help=f"{help_line}; may be repeated")


def find_device(name: str) -> Any:
    """Return the device of that name; ``auto`` is cuda if available, else cpu. Raise RunError if there is none."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # torch checks whether a device exists only when it is used.
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise RunError(f"there is no device {name!r} here; pass --device cpu.") from error


def integer(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """Return the type of an argument that is an integer in a range."""
    return partial(_number, convert=int, least=least, most=most)


def real(least: float, most: float) -> Callable[[str], float]:
    """Return the type of an argument that is a number in a range."""
    return partial(_number, convert=float, least=least, most=most)


def _number(text: str, convert: Callable[[str], Any], least: float, most: float) -> Any:
    try:
        value = convert(text)
    except ValueError:
        value = None
    if value is None or not least <= value <= most:
        kind = "an integer" if convert is int else "a number"
        raise argparse.ArgumentTypeError(f"must be {kind} from {least} to {most}; got {received(text)}")
    return value


def _size(text: str) -> Size:
    parts = text.split("x")
    try:
        side, *others = [integer(1)(part) for part in parts]
    except argparse.ArgumentTypeError:
        side, others = 0, [0]
    if not others:
        return None, side, side
    if len(others) != 2:
        raise argparse.ArgumentTypeError(
            f"must be CHANNELSxHEIGHTxWIDTH or SIDE, 3x224x224 or 224; got {received(text)}"
        )
    return side, others[0], others[1]


def parse_options(given: Sequence[str], flag: str = "--option") -> dict[str, Any]:
    """Parse ``key=value`` words into a dictionary. Values are JSON or text; dots in a key lead to nested dictionaries.

    Raises:
        RunError: A word has another form, or its key leads into a value.
    """
    options: dict[str, Any] = {}
    for word in given:
        path, equals, text = word.partition("=")
        *above, key = path.split(".")
        if not equals or not all((*above, key)):
            raise RunError(f"{flag} takes KEY=VALUE, such as num_classes=10; got {received(word)}.")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        inner = options
        for name in above:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise RunError(f"{flag} {word} leads into {name!r}, which another {flag} gives a value.")
        inner[key] = value
    return options
