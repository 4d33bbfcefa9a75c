"""Counts images that cannot be decoded, over processes and resumed runs; too many of them are an error."""

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
        if self.file is not None and message not in self.found():
            # One write at the end of the file, so lines of several processes do not mix.
            with self.file.open("a", encoding="utf-8") as file:
                file.write(f"{message}\n")
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
        if not self.file.exists():
            return []
        # Several processes may have recorded the same image at once.
        return sorted(set(self.file.read_text(encoding="utf-8").splitlines()))
