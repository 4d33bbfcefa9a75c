"""Options of one data source, from the dictionary that a recipe holds."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from dynaconv.errors import DataError, listed, nearest_names

Options = TypeVar("Options")


@dataclass(frozen=True, kw_only=True)
class DrawnOptions:
    """What every data set takes whose images are drawn anew.

    Attributes:
        distinct: Where it is not ``None``, training sees that many different pictures, again and again.

    Raises:
        DataError: It is not a whole number of at least 1.
    """

    distinct: int | None = None

    def __post_init__(self) -> None:
        check_count("distinct", self.distinct)


def check_count(name: str, value: Any) -> None:
    """Refuse anything but ``None`` and whole numbers of at least 1."""
    if value is not None and (type(value) is not int or value < 1):
        raise DataError(f"data.options.{name} is a whole number of at least 1; got {value!r}.")


def read_options(kind: type[Options], given: Mapping[str, Any] | None, source: str) -> Options:
    """Build a source's options.

    Args:
        kind: Their dataclass.
        given: Names and values; ``None`` leaves all at their defaults.
        source: The source's name, for messages.

    Raises:
        DataError: A name is unknown, or a value does not fit.
    """
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in given or {}:
        if name not in known:
            near = listed(nearest_names(str(name), known, count=1))
            raise DataError(
                f"{source} has no option {name!r}; data.options takes {listed(known)}, and the nearest is {near}."
            )
    return kind(**dict(given or {}))
