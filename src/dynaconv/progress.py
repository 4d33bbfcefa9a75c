"""A line on a terminal that says which step of a long function runs; it is gone when the step ends."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_steps: list[str] = []
"""The steps that run, the innermost last."""


@contextmanager
def step(text: str) -> Iterator[None]:
    """Show a line on standard error while the block runs, if standard error is a terminal.

    In a block within the block, its line replaces this one.
    """
    _steps.append(text)
    _show(text)
    try:
        yield
    finally:
        _steps.pop()
        _show(_steps[-1] if _steps else "")


def done(count: int, total: int, what: str) -> None:
    """Add to the line of the step that runs how far it is: ``count`` of ``total`` images, or the like."""
    if _steps:
        _show(f"{_steps[-1]}, {count:,} of {total:,} {what}")


def _show(text: str) -> None:
    if sys.stderr is None or not sys.stderr.isatty():
        return
    width = shutil.get_terminal_size().columns - 1
    line = f"{text} ..."[:width] if text else ""
    # Back to the start of the line, and erase it.
    sys.stderr.write(f"\r\x1b[K{line}")
    sys.stderr.flush()
