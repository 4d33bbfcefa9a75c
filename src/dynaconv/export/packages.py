"""Imports the optional packages that an export needs, before any other work."""

import importlib
from importlib import metadata
from types import ModuleType

from dynaconv.errors import ExportError, listed


def require(*names: str, extra: str = "export", needed_by: str) -> list[ModuleType]:
    """Import modules and return them in order.

    Args:
        names: Names of the modules.
        extra: The extra of dynaconv that installs them.
        needed_by: The function or task that needs them, for the message.

    Raises:
        ExportError: A module cannot be imported.
    """
    modules = []
    for name in names:
        try:
            modules.append(importlib.import_module(name))
        except ImportError as error:
            raise ExportError(
                f'{needed_by} needs {listed(names)}; install with `pip install "dynaconv[{extra}]"`.'
            ) from error
    return modules


def versioned(package: str, label: str) -> str:
    """Return ``label`` followed by the version of an installed package."""
    return f"{label} {metadata.version(package).partition('+')[0]}"
