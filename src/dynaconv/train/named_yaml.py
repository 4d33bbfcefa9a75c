"""YAML that is named: what comes with the package by its name, anything else by its file."""

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from dynaconv.errors import RunError, listed, nearest_names


class ShippedYaml:
    """A kind of YAML file, of which some come with the package.

    Args:
        kind: What one is called in messages, such as ``"recipe"``.
        package: Where they lie.
        folder: In which folder of it.
        suggestions: Names told where an unknown one is asked for.
    """

    def __init__(self, kind: str, package: str, folder: str, *, suggestions: int) -> None:
        self.kind = kind
        self.package, self.folder = package, folder
        self.suggestions = suggestions

    @property
    def _place(self) -> Traversable:
        return resources.files(self.package) / self.folder

    def names(self) -> list[str]:
        """Return the names of those that come with the package."""
        return sorted(Path(entry.name).stem for entry in self._place.iterdir() if entry.name.endswith(".yaml"))

    def text(self, name: str | Path) -> str:
        """Return the text of one, by name or from a file.

        Raises:
            RunError: There is none of that name, and no file that can be read.
        """
        if str(name) in self.names():
            return (self._place / f"{name}.yaml").read_text(encoding="utf-8")
        path = Path(name).expanduser()
        if path.suffix not in (".yaml", ".yml"):
            near = listed(nearest_names(str(name), self.names(), count=self.suggestions))
            raise RunError(f"unknown {self.kind} {str(name)!r}; the nearest names are {near}, or give a .yaml file.")
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise RunError(f"cannot read the {self.kind} file {path}: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise RunError(f"the {self.kind} file {path} is not UTF-8 text; save it as UTF-8.") from error

    def load(self, name: str | Path) -> Any:
        """Return what one holds.

        Raises:
            RunError: As for `text`, or it is not YAML.
        """
        try:
            return yaml.safe_load(self.text(name))
        except yaml.YAMLError as error:
            raise RunError(f"the {self.kind} {name} is not valid YAML: {' '.join(str(error).split())}") from error
