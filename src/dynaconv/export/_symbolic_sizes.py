"""Stops tracing with a free image size if the symbolic expressions of the feature maps' sizes become too large."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.conversion.example import temporary_hooks
from dynaconv.errors import ExportError
from dynaconv.export._failing_layer import module_label

_MAX_NODES = 200
"""Largest number of nodes in the symbolic expression of a length. Strides, pooling and merging lead to up to 50 nodes.
Padding that depends on the size triples this number at every stride (20, 69, 224, 681), and the solver's time too."""


@contextmanager
def limited_expressions(model: nn.Module) -> Iterator[None]:
    """Raise an error if ``model`` is traced in this context and a length has a too large symbolic expression.

    Raises:
        ExportError: During tracing; the message names the layer whose input has this length.
    """
    names = {id(module): name for name, module in model.named_modules()}

    def check(module: nn.Module, args: tuple[Any, ...]) -> None:
        lengths = [length for each in args if isinstance(each, Tensor) for length in each.shape]
        if any(_count_nodes(length) > _MAX_NODES for length in lengths):
            raise ExportError(
                f"at {module_label(names[id(module)], module)} the size of the feature maps, as a symbolic expression "
                f"of the image size, has over {_MAX_NODES} nodes, usually because of padding that depends on the size; "
                f"tracing would take too long."
            )

    with temporary_hooks(module.register_forward_pre_hook(check) for module in model.modules()):
        yield


def _count_nodes(length: int | torch.SymInt) -> int:
    """Count the nodes of a length's symbolic expression, up to one above the limit."""
    if isinstance(length, int):
        return 1
    import sympy  # type: ignore[import-untyped]

    return sum(1 for _ in islice(sympy.preorder_traversal(length.node.expr), _MAX_NODES + 1))
