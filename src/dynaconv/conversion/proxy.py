"""Modules that replace others and forward attribute look-ups to them."""

from typing import Any, ClassVar

from torch import nn

_CONV2D = nn.Conv2d(1, 1, 1, device="meta")
CONV2D_ATTRIBUTES = frozenset(
    [name for name in vars(_CONV2D) if not name.startswith("_") and name != "training"] + list(_CONV2D._parameters)
)
"""Attributes of a convolution that a network may read: ``stride``, ``padding``, ``weight`` and so on."""


class ModuleProxy(nn.Module):
    """A module that replaces another one in a network and has its attributes.

    A network may do more with a layer than call it: it may read a convolution's stride to pad the input, or the dtype
    of its weight to cast the input. Attributes that a proxy lacks are therefore read from the replaced module.
    """

    _forwarded_names: ClassVar[frozenset[str] | None] = None
    """Names that are read from the replaced module; None for all."""

    def _set_replaced(self, module: nn.Module) -> None:
        """Set the replaced module."""
        # The tuple keeps it from being registered as a submodule.
        self._replaced_module = (module,)

    def _replaced(self) -> nn.Module | None:
        """Return the replaced module; None if it is not set yet."""
        known: tuple[nn.Module | None] = self.__dict__.get("_replaced_module", (None,))
        return known[0]

    def __getattr__(self, name: str) -> Any:
        """Look an attribute up in this module, then in the replaced one."""
        untyped: Any = super()
        try:
            return untyped.__getattr__(name)
        except AttributeError:
            # Only names that code can write as an attribute: nn.Sequential looks its children up by number.
            forwarded = name.isidentifier() and not name.startswith("__")
            forwarded = forwarded and (self._forwarded_names is None or name in self._forwarded_names)
            replaced = self._replaced() if forwarded else None
            if replaced is None or not hasattr(replaced, name):
                raise
            return getattr(replaced, name)


class SequentialProxy(ModuleProxy, nn.Sequential):
    """A chain of modules that replaces the first of them."""

    def _replaced(self) -> nn.Module | None:
        modules: dict[str, nn.Module] = self.__dict__.get("_modules", {})
        return next(iter(modules.values()), None)


class IdentityProxy(ModuleProxy, nn.Identity):
    """An identity that replaces a module whose work is done by another module.

    Args:
        module: The replaced module, which remains a submodule of the module that does its work.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._set_replaced(module)
