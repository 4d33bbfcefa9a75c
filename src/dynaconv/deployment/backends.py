"""Registry of backends, which run deployed networks. A backend is imported when it is requested."""

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from torch import nn

from dynaconv.errors import ConversionError

Backend = Callable[[nn.Module], nn.Module]
"""A function from a deployed network, which it may change in place, to the network to use."""
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
    """
    if name in _registered or name in _entry_points():
        raise ValueError(f"the backend {name!r} is already registered.")
    _registered[name] = backend


def get_backend(name: str) -> Backend:
    """Return a backend by name; import it if needed.

    Raises:
        ConversionError: There is no such backend.
    """
    if name in _registered:
        return _registered[name]
    available = _entry_points()
    if name not in available:
        known = sorted({*_registered, *available})
        raise ConversionError(f"`backend` must be one of {', '.join(map(repr, known))}; got {name!r}.")
    backend: Backend = available[name].load()
    return backend


def _entry_points() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
