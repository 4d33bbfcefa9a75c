"""What goes wrong around a run, each in one sentence that says how to go on."""

import multiprocessing
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from dynaconv.errors import DataError, RunError

_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|remote process", re.IGNORECASE)


@contextmanager
def explained(directory: Path, last: Path, *, processes: int) -> Iterator[None]:
    """Turn what torch raises for a dead loader or a lost process into a sentence, and say how to resume.

    Args:
        directory: The run's folder.
        last: Its checkpoint, which may not be there yet.
        processes: How many the run has.

    Raises:
        DataError: An image cannot be read, or a process that loads images died.
        RunError: Another process of the run is gone.
    """
    try:
        yield
    except DataError as error:
        raise DataError(f"{error}{_resume(directory, last)}") from error
    except (RuntimeError, ConnectionError, EOFError) as error:
        told: Exception = error
        while True:
            try:
                message = _whole_message(told)
                break
            except RuntimeError as death:
                # torch tells of a loader's death wherever Python is, here too.
                told = death
        if "DataLoader worker" in message:
            killed = re.search(r"killed by signal: ([\w ]+)", message)
            how = f"killed by signal: {killed[1].strip()}" if killed else "it ended without a word"
            raise DataError(
                f"a process that loads images died ({how}), mostly because memory ran out; use fewer with "
                f"--data.num_workers.{_resume(directory, last)}"
            ) from error
        if processes > 1 and _LOST.search(message):
            raise RunError(
                f"another process of this run ended or cannot be reached any more, see its own message "
                f"({message[:120].rstrip('. ')}).{_resume(directory, last)}"
            ) from error
        raise


def _whole_message(error: Exception) -> str:
    parts = [str(error), str(error.__cause__ or "")]
    # The connection to a dead loader breaks before the signal of its end arrives.
    perhaps_dead = "DataLoader worker" in parts[0] or not isinstance(error, RuntimeError)
    if perhaps_dead and threading.current_thread() is threading.main_thread():
        parts += _deaths(seconds=2)
    return " ".join(" ".join(parts).split())


def _deaths(seconds: float) -> list[str]:
    """Return what torch says of loader processes that end within some seconds.

    torch raises it from the handler of SIGCHLD, wherever Python happens to be. Of several processes that die, all but
    the first would be raised while the first is explained, or behind it.
    """
    told: list[str] = []
    handler = signal.getsignal(signal.SIGCHLD)

    def note(number: int, frame: FrameType | None) -> None:
        try:
            if callable(handler):
                handler(number, frame)
        except RuntimeError as death:
            told.append(str(death))

    signal.signal(signal.SIGCHLD, note)
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end and (multiprocessing.active_children() or not told):
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGCHLD, handler)
    return told


def _resume(directory: Path, last: Path) -> str:
    return f" What was trained is kept; then `dynaconv train --resume {directory}`." if last.is_file() else ""
