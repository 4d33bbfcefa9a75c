"""Blocks of a network: layers that can share the context of the first of them."""

from collections import Counter
from collections.abc import Iterable


def first_of_block(names: Iterable[str]) -> dict[str, str]:
    """Return the name of the first layer of each layer's block; without those that are alone.

    The parent of a layer is the innermost module around it that holds several of the given layers, so that a wrapper of
    a convolution and its norm does not count. A block is a parent none of whose layers have another parent: the modules
    of a network that hold blocks are no blocks.

    Args:
        names: Names of convolutions and linear layers, in the order of the network's modules.
    """
    listed = list(names)
    held = Counter(outer for name in listed for outer in _around(name))
    parents = {name: next((outer for outer in _around(name) if held[outer] > 1), None) for name in listed}
    direct = Counter(parents.values())
    first: dict[str, str] = {}
    result = {}
    for name, parent in parents.items():
        if parent is not None and direct[parent] == held[parent]:
            result[name] = first.setdefault(parent, name)
    return result


def _around(name: str) -> list[str]:
    """Return the names of the modules around a module, the innermost first; the network itself is called ""."""
    parts = name.split(".")[:-1]
    return [".".join(parts[:length]) for length in range(len(parts), -1, -1)] if name else []
