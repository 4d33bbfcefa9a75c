"""Finds the dynamic branches in an exported graph of any layer family and file format."""

import fnmatch
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from dynaconv.errors import ExportError, listed, nearest_names

Origin = Literal["constant", "features", "context"]
"""Constants, features, or what depends on features only through an average over height and width."""


class GraphNode(NamedTuple):
    """One operation of an exported graph.

    Attributes:
        name: Name in the graph.
        sources: Names of the nodes that compute the inputs; constants may be left out.
        kind: ``input`` for the images, ``pool`` for an average over height and width, ``shape`` for operations that
            read only shapes, ``product`` for elementwise products, matrix products and convolutions, ``rows`` for a
            matrix product that the runtime does in int8 although both factors are computed, ``sum`` for a sum that the
            runtime does in one pass with the product before it, ``other`` for all others.
        labels: Further names that a pattern may match: those of the weights and outputs.
    """

    name: str
    sources: tuple[str, ...]
    kind: Literal["input", "pool", "shape", "product", "rows", "sum", "other"] = "other"
    labels: tuple[str, ...] = ()


def dynamic_nodes(nodes: Sequence[GraphNode]) -> list[str]:
    """Return the nodes that compute the coefficients of dynamic kernels, and those that multiply features with them.

    A branch begins at an average over height and width, contains every node that depends on features only through this
    average, and ends where it is combined with features. The average itself is not returned: it reads features, which
    are quantised for others. The pooling before a classifier is not combined with features, so it begins no branch. A
    product that combines the branch and features (with Lambda, Phi, the attention of a mixture or the gate of
    squeeze-and-excitation) is also returned, except for ``rows`` whose first factor is features. A ``sum`` that reads
    a returned product is returned too.

    Args:
        nodes: All operations, each after its sources.

    Returns:
        Names of the nodes, in the order of ``nodes``.
    """
    origins = node_origins(nodes)
    branch: set[str] = set()
    combined = {
        node.name
        for node in nodes
        if origins[node.name] == "features" and any(origins.get(source) == "context" for source in node.sources)
    }
    for node in reversed(nodes):
        if node.name in combined or node.name in branch:
            branch.update(source for source in node.sources if origins.get(source) == "context")
    products = {node.name for node in nodes if node.name in combined and _stays_float(node, origins)}
    sums = {node.name for node in nodes if node.kind == "sum" and not products.isdisjoint(node.sources)}
    return [
        node.name
        for node in nodes
        if (node.name in branch and node.kind != "pool") or node.name in products or node.name in sums
    ]


def node_origins(nodes: Sequence[GraphNode]) -> dict[str, Origin]:
    """Return where each node's values come from: constants, features, or features only through an average."""
    origins: dict[str, Origin] = {}
    for node in nodes:
        origins[node.name] = _origin(node, {origins.get(source, "constant") for source in node.sources})
    return origins


def _stays_float(node: GraphNode, origins: dict[str, Origin]) -> bool:
    if node.kind == "rows":
        return origins.get(node.sources[0]) != "features"
    return node.kind == "product"


def _origin(node: GraphNode, sources: set[Origin]) -> Origin:
    if node.kind == "input":
        return "features"
    if node.kind == "shape" or not sources - {"constant"}:
        return "constant"
    return "context" if node.kind == "pool" or "features" not in sources else "features"


def named_nodes(nodes: Sequence[GraphNode], patterns: Iterable[str]) -> list[str]:
    """Return the nodes whose own name, or whose weight's or output's name, matches a shell pattern.

    Raises:
        ExportError: A pattern matches nothing.
    """
    matched: set[str] = set()
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
        matched |= matching
    return [node.name for node in nodes if node.name in matched]
