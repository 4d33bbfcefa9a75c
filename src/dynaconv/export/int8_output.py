"""Keeps the tools that quantise from writing on the console."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

from dynaconv.log_levels import quiet_loggers


@contextlib.contextmanager
def quietly(*loggers: str) -> Iterator[None]:
    """Silence progress bars, warnings, and these loggers below ERROR; an exception still says what went wrong."""
    quiet = quiet_loggers(*loggers, level=logging.ERROR)
    with quiet, contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
