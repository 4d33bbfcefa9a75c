"""Traces a module to a graph of the calls that its forward pass makes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import fx, nn

from dynaconv.families.contract.static import replaced_method
from dynaconv.native.steps import UnsupportedError


class _Tracer(fx.Tracer):
    """Tracer that does not look into modules that have a native form.

    Args:
        is_known: Returns whether a module has one.
    """

    def __init__(self, is_known: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self.is_known = is_known

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether the graph has a call of the module in place of the calls that it makes."""
        return self.is_known(m) or super().is_leaf_module(m, module_qualified_name)


def trace(module: nn.Module, is_known: Callable[[nn.Module], bool]) -> tuple[nn.Module, fx.Graph]:
    """Return the graph of a module with one input, and the module whose submodules the graph calls.

    Args:
        module: In eval mode.
        is_known: Returns whether a module has a native form; the graph then has a call of it.

    Raises:
        UnsupportedError: The forward pass depends on the values or sizes of its input, takes several inputs, or does
            more than compute its output.
    """
    if _has_hooks(module):
        raise UnsupportedError("it has hooks or a replaced forward method")
    # A module that is traced itself would not be a call in its own graph.
    root = nn.Sequential(module)
    try:
        with _attributes_kept(module):
            graph = _Tracer(is_known).trace(root)
    except UnsupportedError:
        raise
    # Any code of a network may run here, with inputs that have no values.
    except Exception as error:
        raise UnsupportedError(f"its forward pass cannot be traced: {error}") from error
    return root, graph


def _has_hooks(module: nn.Module) -> bool:
    """Return whether the module or a submodule has hooks or a replaced forward method, which a program would skip."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(replaced_method(m) or any(getattr(m, kind) for kind in kinds) for m in module.modules())


@contextmanager
def _attributes_kept(module: nn.Module) -> Iterator[None]:
    """Put attributes back that are set inside the context, and raise UnsupportedError if there are any."""
    before = [(each, dict(vars(each))) for each in module.modules()]
    try:
        yield
    finally:
        changed = [(each, old) for each, old in before if not _is_same(vars(each), old)]
        for each, old in changed:
            vars(each).clear()
            vars(each).update(old)
    if changed:
        raise UnsupportedError("its forward pass sets attributes")


def _is_same(attributes: dict[str, object], old: dict[str, object]) -> bool:
    return attributes.keys() == old.keys() and all(value is old[name] for name, value in attributes.items())
