"""What goes wrong around a run, each in one sentence that says how to go on."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
        message = _whole_message(error)
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
    if not isinstance(error, RuntimeError):
        # The connection to a dead loader breaks; torch says so when the signal of its end arrives, wherever that is.
        try:
            time.sleep(0.5)
        except RuntimeError as late:
            parts.append(str(late))
    return " ".join(" ".join(parts).split())


def _resume(directory: Path, last: Path) -> str:
    return f" What was trained is kept; then `dynaconv train --resume {directory}`." if last.is_file() else ""
