"""Prints the progress of a run: one line per epoch, and on a terminal a progress bar."""

import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dynaconv.console import make_console
from dynaconv.train.callbacks import ProgressEvent

# Without a terminal, a line is printed inside an epoch if none was printed for this many seconds.
_SILENCE = 60.0


class ConsoleReport:
    """Prints the progress of a run. It is a context manager, so that the progress bar always ends."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or make_console(soft_wrap=True)
        self._bar: Progress | None = None
        self._task: Any = None
        self._last_printed = time.monotonic()

    def __enter__(self) -> "ConsoleReport":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_bar()

    def start(self, directory: Path, facts: dict[str, Any]) -> None:
        """Print the model, the numbers of images, the run folder and the notes."""
        images = ", ".join(
            f"{facts[f'{split}_images']:,} {word}"
            for split, word in (("train", "training"), ("val", "validation"), ("test", "test"))
            if facts[f"{split}_images"]
        )
        self.console.print(f"{facts['model']}: {facts['params']:,} parameters; {images} images; run folder {directory}")
        for note in facts.get("notes", ()):
            self.console.print(note)

    def __call__(self, event: ProgressEvent) -> None:
        """Print one event."""
        if event.kind == "epoch":
            self._stop_bar()
            self._print_line(f"epoch {event.epoch}/{event.epochs or '?'}  {_describe(event.metrics)}")
        elif self.console.is_terminal:
            self._advance_bar(event)
        elif time.monotonic() - self._last_printed > _SILENCE:
            self._print_line(f"epoch {event.epoch}/{event.epochs or '?'}  batch {event.batch}/{event.batches or '?'}")

    def _print_line(self, text: str) -> None:
        self.console.print(text)
        self._last_printed = time.monotonic()

    def _advance_bar(self, event: ProgressEvent) -> None:
        if self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(f"epoch {event.epoch}/{event.epochs or '?'}", total=event.batches or None)
        self._bar.update(self._task, completed=event.batch)

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _describe(metrics: dict[str, float]) -> str:
    parts = [f"lr {metrics['lr']:.2g}", f"loss {metrics['train_loss']:.4f}", f"acc {metrics['train_acc']:.2%}"]
    if "val_loss" in metrics:
        parts.append(f"val loss {metrics['val_loss']:.4f}  val acc {metrics['val_acc']:.2%}")
    parts.append(f"{metrics['seconds']:.1f} s  {metrics['images_per_second']:.0f} images/s")
    return "  ".join(parts)
