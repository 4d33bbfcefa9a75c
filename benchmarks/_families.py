"""The networks that benchmarks compare: the static twin and every registered family."""

import functools
import inspect
import re
from typing import Any

NUMBERS = ("num_kernels", "num_experts", "budget")
"""Options that say how many kernels a layer mixes, or how many times the static network's kernel weights it has."""


@functools.cache
def labels() -> dict[str, str]:
    """The label of each family by its name, those that mix fewer kernels first: "DY-Conv" for ``dyconv``."""
    from dynaconv.families import families

    return {family.name: _label(family.title) for family in sorted(families(), key=_order)}


@functools.cache
def networks() -> dict[str, str]:
    """The label of each registered network: ``static``, every family, and ``<family>_published`` where it differs."""
    from dynaconv.families import get_family

    found = {"static": "static"}
    for name, label in labels().items():
        number = number_option(name)
        found[name] = label if number is None else f"{label} ({number[1]:g})"
        if get_family(name).published is not None:
            found[f"{name}_published"] = f"{label}, published structure"
    return found


def number_option(name: str) -> tuple[str, Any] | None:
    """The one of `NUMBERS` that a family's layers have, and its default; None: they have none."""
    from dynaconv.families import get_family

    parameters = inspect.signature(get_family(name).layer).parameters
    return next(((option, parameters[option].default) for option in NUMBERS if option in parameters), None)


@functools.cache
def native_networks() -> tuple[str, ...]:
    """Those of `networks` whose layers the native kernels run; the others would run in torch."""
    return ("static", *filter(_is_native, labels()))


def _is_native(name: str) -> bool:
    from dynaconv.families import get_family
    from dynaconv.native.lowering import lower
    from dynaconv.native.steps import UnsupportedError

    try:
        lower(get_family(name).layer(32, 32, 1).eval().deployed())
    except UnsupportedError:
        return False
    return True


def _label(title: str) -> str:
    """The short name in brackets at the end of a title, or the title."""
    found = re.search(r"\(([^)]+)\)$", title)
    return title if found is None else found[1]


def _order(family: Any) -> tuple[float, str]:
    number = number_option(family.name)
    return (0 if number is None else float(number[1])), family.name
