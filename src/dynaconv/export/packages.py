"""The packages that a format needs, asked for before any work is done."""

import importlib
from importlib import metadata
from types import ModuleType

from dynaconv.errors import ExportError, listed


def require(*names: str, extra: str = "export", what: str) -> list[ModuleType]:
    """Import packages in order.

    Args:
        names: What to import.
        extra: The extra of dynaconv that brings them.
        what: What needs them, for the message.

    Raises:
        ExportError: One cannot be imported.
    """
    modules = []
    for name in names:
        try:
            modules.append(importlib.import_module(name))
        except ImportError as error:
            raise ExportError(
                f'{what} needs {listed(names)}; install them by `pip install "dynaconv[{extra}]"`.'
            ) from error
    return modules


def versioned(package: str, label: str) -> str:
    """``label`` and the version of an installed package."""
    return f"{label} {metadata.version(package).partition('+')[0]}"
