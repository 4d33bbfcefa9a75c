"""Keeps the quantisation tools from writing to the console."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

from dynaconv.log_levels import raised_log_levels


@contextlib.contextmanager
def suppressed_output(*loggers: str) -> Iterator[None]:
    """Hide progress bars, warnings, and the messages of these loggers below ERROR."""
    log_levels = raised_log_levels(*loggers, level=logging.ERROR)
    with log_levels, contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
