"""Images that cannot be decoded: named, counted over processes and resumed runs, and too many of them an error."""

import os
from pathlib import Path

from dynaconv.errors import CorruptImageError, DataError


class CorruptImages:
    """Which training images were found corrupt.

    Args:
        limit: How many different ones a run passes over.

    Attributes:
        file: Where their names are kept, one a line, for all processes of a run; ``None`` counts in this process.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.file: Path | None = None
        self._seen: set[str] = set()

    def add(self, error: CorruptImageError) -> None:
        """Note an image by the message of its error.

        Raises:
            DataError: There are more of them than the run allows.
        """
        message = " ".join(str(error).split())
        if message in self._seen:
            return
        self._seen.add(message)
        if message not in self.found():
            self._append(message)
        count = len(self.found())
        if self.limit == 0:
            raise DataError(f"{message} With --data.max_corrupt N a run passes over N such images.") from error
        if count > self.limit:
            raise DataError(
                f"{count} training images are corrupt, and data.max_corrupt allows {self.limit}; "
                f"the last one: {message}"
            ) from error

    def found(self) -> list[str]:
        """Return what is wrong with each corrupt image, in no particular order."""
        if self.file is None:
            return sorted(self._seen)
        try:
            # Several processes may have found the same image at once.
            return sorted(set(self.file.read_text(encoding="utf-8").splitlines()))
        except FileNotFoundError:
            return []

    def _append(self, message: str) -> None:
        if self.file is not None:
            # A write at the end of a file is whole, whichever process is first.
            descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(descriptor, f"{message}\n".encode())
            finally:
                os.close(descriptor)
