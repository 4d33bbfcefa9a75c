"""Errors that a user can cause and mend: one sentence each, shown by the command line without a traceback."""

import difflib
from collections.abc import Iterable


class DynaconvError(ValueError):
    """Something the caller passed cannot be used; the message says what is wrong, what came and what to do."""

    def __init__(self, message: str) -> None:
        # torch raises an error of a loader process again with that process's traceback before the message.
        if message.startswith("Caught ") and "Original Traceback" in message:
            message = message.strip().splitlines()[-1].partition(": ")[2]
        super().__init__(message)


class DataError(DynaconvError):
    """A data set, folder or image cannot be read."""


class CorruptImageError(DataError):
    """An image file is there and cannot be decoded."""


class CheckpointError(DynaconvError):
    """A checkpoint is damaged, or belongs to another model."""


class ConversionError(DynaconvError):
    """A network cannot be converted as asked; it is as it was."""


class ExportError(DynaconvError):
    """A network cannot be exported, or what was written does not compute what it does; no file is left."""


class RunError(DynaconvError):
    """A run cannot start: its folder, recipe or options do not fit."""


class TrainingDivergedError(DynaconvError):
    """The loss left the finite numbers; the last checkpoint before that is kept."""


class RunsFailedError(DynaconvError):
    """Runs failed or were stopped, such as some of a study; the others are done."""


def nearest_names(name: str, known: Iterable[str], *, count: int = 3) -> list[str]:
    """Return the ``count`` known names most like ``name``, the most alike first.

    Names that contain ``name`` come first; otherwise the closest spelling decides, however far it is, so that the
    list is only empty when ``known`` is.
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


def with_article(name: str) -> str:
    """The name behind its article: ``a Tensor``, ``an int``."""
    return f"{'an' if name[:1].lower() in 'aeio' else 'a'} {name}"


def counted(count: int, noun: str) -> str:
    """A number of things: ``1 tensor``, ``2 tensors``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
