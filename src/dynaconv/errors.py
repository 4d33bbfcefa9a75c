"""Errors that a user can cause and correct. The command line prints their message without a traceback."""

import difflib
import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import ClassVar


class DynaconvError(ValueError):
    """Base class of errors in the caller's input. The message states the error, the value received and the remedy."""

    exit_code: ClassVar[int] = 2
    """Exit code of the command line: 2 for a wrong input, 1 for a failure that a correct input does not exclude."""

    def __init__(self, message: str) -> None:
        # torch raises an error of a data loader process again, with that process's traceback before the message.
        if message.startswith("Caught ") and "Original Traceback" in message:
            message = message.strip().splitlines()[-1].partition(": ")[2]
        super().__init__(message)


class DataError(DynaconvError):
    """A data set, folder or image cannot be read."""


class CorruptImageError(DataError):
    """An image file exists but cannot be decoded."""


class CheckpointError(DynaconvError):
    """A checkpoint is damaged, or belongs to another model."""


class ConversionError(DynaconvError):
    """A network cannot be converted as requested. It is unchanged."""


class ExportError(DynaconvError):
    """A network cannot be exported, or the exported file gives other outputs than the network. No file is left."""


class RunError(DynaconvError):
    """A run cannot start because of its folder, recipe or options."""


class TrainingDivergedError(DynaconvError):
    """The loss became NaN or infinite. The last checkpoint before that is kept."""

    exit_code = 1


class RunsFailedError(DynaconvError):
    """Some runs, such as runs of a study, failed or were stopped. The others have finished."""

    exit_code = 1


def check_range(
    name: str,
    value: float,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    error: type[DynaconvError] = RunError,
) -> None:
    """Raise an error unless a number is finite and in the interval from ``low`` to ``high``.

    Args:
        name: Name of the option, for the message.
        value: The number.
        low, high: Ends of the interval.
        open_low, open_high: Whether the interval excludes its end.
        error: Class of the error.
    """
    above = value > low if open_low else value >= low
    below = value < high if open_high else value <= high
    # A comparison, because `math.isfinite` refuses integers beyond the range of a float.
    finite = abs(value) < math.inf
    if above and below and finite:
        return
    if high == math.inf:
        wanted = f"{'' if finite else 'finite and '}{'greater than' if open_low else 'at least'} {low:g}"
    else:
        wanted = f"in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    raise error(f"{name} must be {wanted}; got {received(value)}.")


def check_type(name: str, value: object, kind: type) -> None:
    """Raise TypeError unless an argument is an instance of a class."""
    if not isinstance(value, kind):
        raise TypeError(f"`{name}` must be {with_article(kind.__name__)}; got {with_article(type(value).__name__)}.")


def as_number(value: object) -> float | None:
    """Return ``value`` as a float if it is a real number (also of NumPy) other than a bool; else None."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def nearest_names(name: str, known: Iterable[str], *, count: int = 3) -> list[str]:
    """Return up to ``count`` known names that are similar to ``name``.

    Names that contain ``name`` come first, in alphabetical order. The others follow by similarity of spelling. There is
    no threshold, so the list is empty only if ``known`` is empty.
    """
    names = sorted(set(known))
    wanted = name.lower()
    containing = [candidate for candidate in names if wanted and wanted in candidate.lower()]
    close = difflib.get_close_matches(wanted, names, n=count, cutoff=0.0)
    return list(dict.fromkeys(containing[:count] + close))[:count]


def listed(names: Iterable[str], *, last: str = "and", quote: bool = True) -> str:
    """Join names for a sentence: ``'a', 'b' and 'c'``."""
    quoted = [repr(name) if quote else name for name in names]
    if len(quoted) <= 1:
        return "".join(quoted)
    return f"{', '.join(quoted[:-1])} {last} {quoted[-1]}"


def abbreviated(names: Sequence[str], *, most: int) -> str:
    """Return the first names of a list and the number of the others."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def with_article(name: str) -> str:
    """Return a name with its indefinite article: ``a Tensor``, ``an int``."""
    # The names of these letters, which begin an abbreviation such as FDConv, begin with a vowel.
    spelled = name[:2].isupper() and name[0] in "FHLMNRSX"
    return f"{'an' if spelled or name[:1].lower() in 'aeio' else 'a'} {name}"


def received(value: object) -> str:
    """Return a wrong value for a message: as code; a long text shortened, and only the type of what is long otherwise.

    A tensor or a list of thousands of numbers would fill the screen.
    """
    code = repr(value)
    if len(code) <= 100 and len(code.splitlines()) == 1:
        return code
    return f"{value[:60]!r}..." if isinstance(value, str) else with_article(type(value).__name__)


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 tensor``, ``2 tensors``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
