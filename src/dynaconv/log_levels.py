"""Suppression of log messages that a user cannot act on."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def raised_log_levels(*names: str, level: int) -> Iterator[None]:
    """Raise the level of loggers while the block runs; the name ``"root"`` means the root logger."""
    loggers = [logging.getLogger(None if name == "root" else name) for name in names]
    previous = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(level)
        yield
    finally:
        for logger, old in zip(loggers, previous, strict=True):
            logger.setLevel(old)
