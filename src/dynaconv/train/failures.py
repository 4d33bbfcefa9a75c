"""Turns failures of a run's processes into one-sentence errors that say how to resume it."""

import multiprocessing
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from lightning.fabric.utilities.exceptions import MisconfigurationException

from dynaconv.errors import DataError, RunError

_LOST_PROCESS = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|remote process", re.IGNORECASE)
_MISSING_METRIC = re.compile(r"conditioned on metric|find the monitored key")
_MISSING_PACKAGE = re.compile(r"(?:Requirement '|Neither `)([\w-]+)")


@contextmanager
def logger_installed() -> Iterator[None]:
    """Turn Lightning's error about the missing package of a logger into one sentence.

    Raises:
        RunError: The package of a logger is not installed.
    """
    try:
        yield
    except (ModuleNotFoundError, ValueError) as error:
        if (missing := _MISSING_PACKAGE.search(str(error))) is None:
            raise
        raise RunError(
            f"trainer.logger needs the package {missing[1]}, which is not installed; install it, or pass "
            f"--trainer.logger false."
        ) from error


@contextmanager
def explained(last: Path, *, processes: int) -> Iterator[None]:
    """Turn errors about a dead loader process, a lost peer or a monitored metric into one sentence.

    Args:
        last: The run's last checkpoint, which may not exist yet.
        processes: Number of processes of the run.

    Raises:
        DataError: An image cannot be read, or a process that loads images died.
        RunError: Another process of the run ended or cannot be reached, or a callback monitors a metric that does not
            exist.
    """
    try:
        yield
    except DataError as error:
        raise DataError(f"{error}{how_to_resume(last)}") from error
    except (RuntimeError, ConnectionError, EOFError, MisconfigurationException) as error:
        if _MISSING_METRIC.search(str(error)):
            raise RunError(f"trainer.callbacks: {' '.join(str(error).split())}") from error
        if isinstance(error, MisconfigurationException):
            raise
        raised: Exception = error
        while True:
            try:
                message = _full_message(raised)
                break
            except RuntimeError as death:
                # torch raises the death of a loader process from a signal handler, at any point of the program.
                raised = death
        if "DataLoader worker" in message:
            killed = re.search(r"killed by signal: ([\w ]+)", message)
            how = f"killed by signal: {killed[1].strip()}" if killed else "it ended without a message"
            raise DataError(
                f"a process that loads images died ({how}), most often because memory ran out; use fewer with "
                f"--data.num_workers.{how_to_resume(last)}"
            ) from error
        if processes > 1 and _LOST_PROCESS.search(message):
            raise RunError(
                f"another process of this run ended or cannot be reached any more; see its own message "
                f"({message[:120].rstrip('. ')}).{how_to_resume(last)}"
            ) from error
        raise


def _full_message(error: Exception) -> str:
    parts = [str(error), str(error.__cause__ or "")]
    # The connection to a dead loader process breaks before its SIGCHLD arrives.
    perhaps_dead = "DataLoader worker" in parts[0] or not isinstance(error, RuntimeError)
    if perhaps_dead and threading.current_thread() is threading.main_thread():
        parts += _loader_deaths(seconds=2)
    return " ".join(" ".join(parts).split())


def _loader_deaths(seconds: float) -> list[str]:
    """Return torch's messages about loader processes that end within some seconds.

    torch raises them from its handler of SIGCHLD, at any point of the program. If several processes die, the errors
    after the first one would be raised while it is handled, or after it.
    """
    messages: list[str] = []
    handler = signal.getsignal(signal.SIGCHLD)

    def note(number: int, frame: FrameType | None) -> None:
        try:
            if callable(handler):
                handler(number, frame)
        except RuntimeError as death:
            messages.append(str(death))

    signal.signal(signal.SIGCHLD, note)
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end and (multiprocessing.active_children() or not messages):
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGCHLD, handler)
    return messages


def how_to_resume(last: Path) -> str:
    """Return a sentence, after a space, on how to resume a run from its last checkpoint; empty if it does not exist."""
    sentence = f" The last checkpoint is kept; then run `dynaconv train --resume {last.parents[1]}`."
    return sentence if last.is_file() else ""
