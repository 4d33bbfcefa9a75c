"""Stops a record of free image sizes whose formulas grow without end."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.errors import ExportError
from dynaconv.export._failing_layer import named

_LARGEST = 200
"""Terms in the formula of a length. Strides, pooling and merging give up to 50; padding that depends on the size makes
three times as many at every stride, 20, 69, 224, 681, and the solver takes as much longer."""


@contextmanager
def bounded_growth(model: nn.Module) -> Iterator[None]:
    """While it lasts, ``model`` refuses to be recorded with lengths that are too long a formula of the input's.

    Raises:
        ExportError: From inside the record; names the layer whose input is such.
    """
    names = {id(module): name for name, module in model.named_modules()}

    def check(module: nn.Module, args: tuple[Any, ...]) -> None:
        lengths = [length for each in args if isinstance(each, Tensor) for length in each.shape]
        if any(_terms(length) > _LARGEST for length in lengths):
            raise ExportError(
                f"at {named(names[id(module)], module)} the size of the feature maps, as a formula of the image's, has "
                f"over {_LARGEST} terms, as padding that depends on the size makes it; the record would not end."
            )

    handles = [module.register_forward_pre_hook(check) for module in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _terms(length: int | torch.SymInt) -> int:
    """Nodes of the formula, counted just past the limit."""
    if isinstance(length, int):
        return 1
    import sympy  # type: ignore[import-untyped]

    return sum(1 for _ in islice(sympy.preorder_traversal(length.node.expr), _LARGEST + 1))
