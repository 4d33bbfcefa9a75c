"""Builds the options of a data source from the dictionary in a recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from dynaconv.errors import DataError, listed, nearest_names
from dynaconv.families.contract.checks import check_integer

Options = TypeVar("Options")


@dataclass(frozen=True, kw_only=True)
class DrawnOptions:
    """Options of all data sets whose images are drawn anew.

    Attributes:
        distinct: If not ``None``, training uses only that many different pictures, repeatedly.

    Raises:
        DataError: ``distinct`` is not an integer of at least 1.
    """

    distinct: int | None = None

    def __post_init__(self) -> None:
        check_count("distinct", self.distinct)


def check_count(name: str, value: Any) -> None:
    """Raise `DataError` unless a value is ``None`` or an integer of at least 1."""
    if value is not None:
        check_integer(f"data.options.{name}", value, error=DataError)


def read_options(kind: type[Options], given: Mapping[str, Any] | None, source: str) -> Options:
    """Build the options of a source.

    Args:
        kind: Dataclass of the options.
        given: Names and values; ``None`` gives the defaults.
        source: The source's name, for messages.

    Raises:
        DataError: A name is unknown, or a value is invalid.
    """
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in given or {}:
        if name not in known:
            near = listed(nearest_names(str(name), known, count=1))
            raise DataError(
                f"{source} has no option {name!r}; data.options takes {listed(known)}; the nearest is {near}."
            )
    return kind(**dict(given or {}))
