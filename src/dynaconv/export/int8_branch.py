"""Finds the dynamic branches in an exported graph, whatever family and format they are of."""

import fnmatch
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from dynaconv.errors import ExportError, listed, nearest_names

_Origin = Literal["constant", "features", "context"]


class GraphNode(NamedTuple):
    """One operation of an exported graph.

    Attributes:
        name: Its name in the graph.
        sources: Names of the nodes that make its inputs; constants may be left out.
        kind: ``input`` for the images, ``pool`` for an average over height and width, ``shape`` for what reads sizes
            and no values, ``product`` for products by elements, of matrices, and convolutions, ``other`` for the rest.
        labels: What else a pattern may call it: its weights and outputs.
    """

    name: str
    sources: tuple[str, ...]
    kind: Literal["input", "pool", "shape", "product", "other"] = "other"
    labels: tuple[str, ...] = ()


def dynamic_nodes(nodes: Sequence[GraphNode]) -> list[str]:
    """The nodes that make the coefficients of dynamic kernels, and those that multiply features with them.

    A branch begins at an average over height and width, takes in whatever depends on that average alone, and ends where
    it meets features again. The pooling before a classifier meets none and so begins no branch. Where branch and
    features meet in a product (with Lambda, with P Phi, with the attention of a mixture, with the gate of
    squeeze-and-excitation), the product counts as dynamic.

    Args:
        nodes: Every operation, each after its sources.

    Returns:
        Their names, in the order of ``nodes``.
    """
    origins: dict[str, _Origin] = {}
    meetings: set[str] = set()
    for node in nodes:
        origins[node.name] = origin = _origin(node, {origins.get(source, "constant") for source in node.sources})
        if origin == "features" and any(origins.get(source) == "context" for source in node.sources):
            meetings.add(node.name)
    needed: set[str] = set()
    for node in reversed(nodes):
        if node.name in meetings or node.name in needed:
            needed.update(source for source in node.sources if origins.get(source) == "context")
    return [node.name for node in nodes if node.name in needed or (node.name in meetings and node.kind == "product")]


def _origin(node: GraphNode, sources: set[_Origin]) -> _Origin:
    if node.kind == "input":
        return "features"
    if node.kind == "shape" or not sources - {"constant"}:
        return "constant"
    return "context" if node.kind == "pool" or "features" not in sources else "features"


def named_nodes(nodes: Sequence[GraphNode], patterns: Iterable[str]) -> list[str]:
    """The nodes whose name, or the name of a weight or output of theirs, matches a shell pattern.

    Raises:
        ExportError: A pattern matches nothing.
    """
    found: set[str] = set()
    for pattern in patterns:
        matching = {
            node.name for node in nodes if any(fnmatch.fnmatchcase(each, pattern) for each in (node.name, *node.labels))
        }
        if not matching:
            known = [each for node in nodes for each in (node.name, *node.labels)]
            raise ExportError(
                f"no operation or weight matches ignored={pattern!r}; the graph has {len(nodes)} operations, the "
                f"nearest names are {listed(nearest_names(pattern, known))}."
            )
        found |= matching
    return [node.name for node in nodes if node.name in found]
