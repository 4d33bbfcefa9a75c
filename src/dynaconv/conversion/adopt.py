"""Takes over modules of other packages that have layers of a family, with their weights."""

from collections.abc import Iterable

from torch import nn

from dynaconv.conversion.swap import all_names, replace_module
from dynaconv.errors import ConversionError
from dynaconv.families import DynamicLayer, Family


def find_adoptable(model: nn.Module, family: Family) -> dict[tuple[str, ...], nn.Module]:
    """Return the modules that compute the functions of those which the family knows, by all names of the latter."""
    if family.adopt is None:
        return {}
    found = {}
    for module, names in all_names(model).items():
        adopted = family.adopt(module)
        if adopted is not None:
            found[tuple(names)] = adopted
    return found


def layer_names(prefix: str, module: nn.Module) -> tuple[str, ...]:
    """Return the full names of the dynamic layers of a module called ``prefix``."""
    return tuple(
        f"{prefix}.{name}" if prefix else name
        for name, child in module.named_modules()
        if isinstance(child, DynamicLayer)
    )


def adopt_modules(model: nn.Module, family: Family, wanted: Iterable[tuple[str, ...]]) -> None:
    """Replace the modules of these names in place.

    Raises:
        ConversionError: The model has other modules under these names; it is then unchanged.
    """
    built = {}
    for names in wanted:
        adopted = None if family.adopt is None else family.adopt(model.get_submodule(names[0]))
        if adopted is None or names == ("",):
            raise ConversionError(f"{names[0]!r} is no module that the family {family.name!r} can take over.")
        built[names] = adopted
    for names, module in built.items():
        replace_module(model, names, module)
