"""Keeps the tools that quantise from writing on the console."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quietly(*loggers: str) -> Iterator[None]:
    """Silence progress bars, warnings, and these loggers below ERROR; an exception still says what went wrong."""
    named = [logging.getLogger(None if name == "root" else name) for name in loggers]
    levels = [logger.level for logger in named]
    try:
        for logger in named:
            logger.setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(named, levels, strict=True):
            logger.setLevel(level)
