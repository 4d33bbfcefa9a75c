"""``dynaconv models``: the networks of dynaconv that timm builds by name."""

import argparse
from fnmatch import fnmatch
from typing import Any

from dynaconv.commands import _arguments as shared
from dynaconv.commands._shared import add_command
from dynaconv.errors import RunError, listed, nearest_names
from dynaconv.files import write_json

_EPILOG = (
    "A pattern is shell-style; quote it. Every name works in timm.create_model after `import dynaconv.models`, "
    "in --model of `dynaconv train`, and as CHECKPOINT of `profile`, `convert` and `export`."
)


def add(commands: Any) -> None:
    """Add ``dynaconv models``."""
    command = add_command(commands, "models", "list the networks that dynaconv adds to timm", run, _EPILOG)
    command.add_argument("pattern", metavar="PATTERN", nargs="?", default="*", help="names to list; by default all")
    shared.add_json(command, "the list")


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Print the name and the number of parameters of each network, at 1000 classes."""
    import timm
    import torch

    import dynaconv.models  # noqa: F401  # registers the names
    from dynaconv.train.factory import is_own_model

    known = [name for name in timm.list_models() if is_own_model(name)]
    names = [name for name in known if fnmatch(name, arguments.pattern)]
    if not names:
        near = nearest_names(arguments.pattern, known)
        raise RunError(f"no network of dynaconv matches {arguments.pattern!r}; the nearest names are {listed(near)}.")
    found = {}
    width = max(map(len, names))
    print(f"{'name':<{width}}  parameters", flush=True)
    for name in names:
        with torch.device("meta"):
            network = timm.create_model(name)
        found[name] = sum(parameter.numel() for parameter in network.parameters())
        print(f"{name:<{width}}  {found[name]:>10,}".rstrip(), flush=True)
    if arguments.json is not None:
        write_json(arguments.json, [{"name": name, "parameters": count} for name, count in found.items()])
