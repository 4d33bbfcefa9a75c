"""Modules in the place of others, for which they answer."""

from typing import Any, ClassVar

from torch import nn

_CONV2D = nn.Conv2d(1, 1, 1, device="meta")
CONV2D_ATTRIBUTES = frozenset(
    [name for name in vars(_CONV2D) if not name.startswith("_") and name != "training"] + list(_CONV2D._parameters)
)
"""What a network may read of a convolution: ``stride``, ``padding``, ``weight`` and so on."""


class StandIn(nn.Module):
    """A module in the place of another.

    A network may do more with a layer than call it: read a convolution's stride to pad for it, or the type of its
    weight to convert its input. So what a stand-in does not have itself it answers as the module that it replaces.
    """

    _answers: ClassVar[frozenset[str] | None] = None
    """The names it answers so; None for all."""

    def _stand_for(self, module: nn.Module) -> None:
        """Say which module stood here."""
        # In a tuple it is no module of this one.
        self._stood_here = (module,)

    def _replaced(self) -> nn.Module | None:
        """The module that stood here; None while it is not known yet."""
        known: tuple[nn.Module | None] = self.__dict__.get("_stood_here", (None,))
        return known[0]

    def __getattr__(self, name: str) -> Any:
        """As of any module, then of the one that it replaces."""
        untyped: Any = super()
        try:
            return untyped.__getattr__(name)
        except AttributeError:
            # No more than code can ask for by name: a sequence asks for its numbers itself.
            asked = name.isidentifier() and not name.startswith("__")
            asked = asked and (self._answers is None or name in self._answers)
            replaced = self._replaced() if asked else None
            if replaced is None or not hasattr(replaced, name):
                raise
            return getattr(replaced, name)


class Run(StandIn, nn.Sequential):
    """Modules that another runs one after another, in the place of the first of them."""

    def _replaced(self) -> nn.Module | None:
        modules: dict[str, nn.Module] = self.__dict__.get("_modules", {})
        return next(iter(modules.values()), None)


class Absorbed(StandIn, nn.Identity):
    """Does nothing in the place of a module whose work is done elsewhere.

    Args:
        module: It, which stays a module of whoever does its work.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._stand_for(module)
