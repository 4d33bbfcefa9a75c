"""Reads YAML files: those that come with the package by name, others by path."""

import json
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from dynaconv.errors import RunError, listed, nearest_names, received


class ShippedYaml:
    """Reads one kind of YAML file, of which some come with the package.

    Args:
        kind: Name of the kind in messages, such as ``"recipe"``.
        package: Package that contains the files.
        folder: Folder of the files in the package.
        suggestions: Number of names in the message about an unknown name.
    """

    def __init__(self, kind: str, package: str, folder: str, *, suggestions: int) -> None:
        self.kind = kind
        self.package, self.folder = package, folder
        self.suggestions = suggestions

    @property
    def _root(self) -> Traversable:
        return resources.files(self.package) / self.folder

    def names(self) -> list[str]:
        """Return the names of the files that come with the package."""
        return sorted(Path(entry.name).stem for entry in self._root.iterdir() if entry.name.endswith(".yaml"))

    def text(self, name: str | Path) -> str:
        """Return the text of a file, given its name or path.

        Raises:
            RunError: No file that comes with the package has this name, and it is not the path of a readable YAML file.
        """
        if str(name) in self.names():
            return (self._root / f"{name}.yaml").read_text(encoding="utf-8")
        path = Path(name).expanduser()
        if path.suffix not in (".yaml", ".yml"):
            near = listed(nearest_names(str(name), self.names(), count=self.suggestions))
            raise RunError(
                f"unknown {self.kind} {received(str(name))}; the nearest names are {near}, or give a .yaml file."
            )
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise RunError(f"cannot read the {self.kind} file {path}: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise RunError(f"the {self.kind} file {path} is not UTF-8 text; save it as UTF-8.") from error

    def load(self, name: str | Path) -> Any:
        """Return the parsed content of a file, given its name or path.

        Raises:
            RunError: As for `text`, or the file is not valid YAML, or holds a value that JSON lacks.
        """
        try:
            values = yaml.safe_load(self.text(name))
        except yaml.YAMLError as error:
            raise RunError(f"the {self.kind} {name} is not valid YAML: {' '.join(str(error).split())}") from error
        try:
            json.dumps(values)
        except (TypeError, ValueError) as error:
            raise RunError(
                f"the {self.kind} {name} must hold texts, numbers, lists and mappings alone; put other values, such as "
                f"dates, in quotes ({error})."
            ) from error
        return values
