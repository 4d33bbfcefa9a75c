"""What runs a deployed network, by name; loaded when it is asked for."""

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from torch import nn

from dynaconv.errors import ConversionError

Backend = Callable[[nn.Module], nn.Module]
"""From a deployed network, which may be changed in place, to the network to use."""
ENTRY_POINTS = "dynaconv.backends"
"""Entry-point group in which packages, this one too, name their backends."""
_registered: dict[str, Backend] = {"torch": lambda network: network}


def register_backend(name: str, backend: Backend) -> None:
    """Make a backend known to `dynaconv.deploy`.

    Args:
        name: What ``deploy(..., backend=name)`` asks for.
        backend: Given a deployed network, whose dynamic layers are `DeployedLayer`, the network to use.

    Raises:
        ValueError: The name is taken.
    """
    if name in _registered or name in _found():
        raise ValueError(f"the backend {name!r} is there already.")
    _registered[name] = backend


def get_backend(name: str) -> Backend:
    """The backend of a name, imported now.

    Raises:
        ConversionError: There is none.
    """
    if name in _registered:
        return _registered[name]
    found = _found()
    if name not in found:
        known = sorted({*_registered, *found})
        raise ConversionError(f"`backend` is one of {', '.join(map(repr, known))}; got {name!r}.")
    backend: Backend = found[name].load()
    return backend


def _found() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
