"""Registry of backends, which run deployed networks. A backend is imported when it is requested."""

import inspect
from collections.abc import Callable
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from torch import nn

from dynaconv.errors import ConversionError, check_type
from dynaconv.families.contract.checks import check_choice

Backend = Callable[[nn.Module], nn.Module]
"""A function from a deployed network, which it may change in place, to the network to use.

A backend that has more precisions than float32 takes the keyword argument ``precision``.
"""
Precision = Literal["float32", "bf16", "int8"]
"""How a backend stores and multiplies weights."""
PRECISIONS: tuple[Precision, ...] = ("float32", "bf16", "int8")
"""The precisions of ``backend="native"``."""
ENTRY_POINTS = "dynaconv.backends"
"""Entry-point group in which packages, dynaconv included, list their backends."""
_registered: dict[str, Backend] = {"torch": lambda network: network}


def register_backend(name: str, backend: Backend) -> None:
    """Register a backend for `dynaconv.deploy`.

    Args:
        name: Name for ``deploy(..., backend=name)``.
        backend: A function from a deployed network, whose dynamic layers are `DeployedLayer`, to the network to use.

    Raises:
        ValueError: The name is already registered.
        TypeError: The name is not a string.
    """
    check_type("name", name, str)
    if name in _registered or name in _entry_points():
        raise ValueError(f"the backend {name!r} is already registered.")
    _registered[name] = backend


def get_backend(name: str, precision: Precision = "float32") -> Backend:
    """Return a backend by name, which then takes a network alone; import it if needed.

    Raises:
        ConversionError: There is no such backend or precision, or the backend lacks this precision.
    """
    check_precision(precision)
    backend: Any = _find(name)
    if precision != "float32" and "precision" not in inspect.signature(backend).parameters:
        raise ConversionError(
            f"the backend {name!r} computes in float32 only, not in {precision!r}; leave out `precision`, or set "
            f"backend='native'."
        )
    bound: Backend = backend if precision == "float32" else partial(backend, precision=precision)
    return bound


def check_precision(precision: Precision) -> None:
    """Raise ConversionError if a precision is unknown."""
    check_choice("`precision`", precision, PRECISIONS, error=ConversionError)


def _find(name: str) -> Backend:
    if name in _registered:
        return _registered[name]
    available = _entry_points()
    check_choice("`backend`", name, sorted({*_registered, *available}), error=ConversionError)
    backend: Backend = available[name].load()
    return backend


def _entry_points() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
