"""Counts images that cannot be decoded, over processes and resumed runs; too many of them are an error."""

import os
from pathlib import Path

from dynaconv.errors import CorruptImageError, DataError


class CorruptImages:
    """The corrupt training images of a run.

    Args:
        limit: Number of different corrupt images that a run tolerates.

    Attributes:
        file: File with one error message per line, shared by all processes of a run; ``None`` counts in this process.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.file: Path | None = None
        self._seen: set[str] = set()

    def add(self, error: CorruptImageError) -> None:
        """Record an image by the message of its error.

        Raises:
            DataError: There are more corrupt images than the run tolerates.
        """
        message = " ".join(str(error).split())
        if message in self._seen:
            return
        self._seen.add(message)
        if message not in self.found():
            self._append(message)
        count = len(self.found())
        if self.limit == 0:
            raise DataError(f"{message} Pass --data.max_corrupt N to tolerate N such images.") from error
        if count > self.limit:
            raise DataError(
                f"{count} training images are corrupt, but data.max_corrupt allows {self.limit}; "
                f"the last one: {message}"
            ) from error

    def found(self) -> list[str]:
        """Return the error messages of the corrupt images, sorted."""
        if self.file is None:
            return sorted(self._seen)
        try:
            # Several processes may have recorded the same image at once.
            return sorted(set(self.file.read_text(encoding="utf-8").splitlines()))
        except FileNotFoundError:
            return []

    def _append(self, message: str) -> None:
        if self.file is not None:
            # O_APPEND makes each write atomic, so lines of several processes do not mix.
            descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(descriptor, f"{message}\n".encode())
            finally:
                os.close(descriptor)
