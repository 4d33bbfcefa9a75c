"""Console output of both trainings: live progress bars on a terminal, else one line per epoch."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dynaconv.train.callbacks import ProgressEvent


class TwinProgress:
    """Context manager that shows the training progress of both networks and always stops the display at exit."""

    def __init__(self, console: Console, titles: Sequence[str]) -> None:
        self.console = console
        self._width = max(len(title) for title in titles)
        self._tasks: dict[str, TaskID] = {}
        self._bars: Progress | None = None
        if console.is_terminal:
            self._bars = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=28),
                TextColumn("{task.fields[state]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
            )
            for title in titles:
                task = self._bars.add_task(title.ljust(self._width), total=None, start=False, state="waiting")
                self._tasks[title] = task

    def __enter__(self) -> TwinProgress:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def start(self, title: str) -> None:
        """Start the timer of the network's training."""
        if self._bars is not None:
            self._bars.start_task(self._tasks[title])

    def update(self, title: str, event: ProgressEvent) -> None:
        """Show one event of the network's training."""
        if self._bars is None:
            if event.kind == "epoch":
                self.console.print(
                    f"{title.ljust(self._width)}  {_state(event)}  {event.seconds:.1f} s", soft_wrap=True
                )
            return
        task = self._tasks[title]
        batches = max(event.batches, 1)
        done = (event.epoch - 1) * batches + event.batch
        self._bars.update(task, total=event.epochs * batches, completed=done)
        if event.kind == "epoch":
            self._bars.update(task, state=_state(event))


def _state(event: ProgressEvent) -> str:
    parts = [f"epoch {event.epoch:>{len(str(event.epochs))}}/{event.epochs}"]
    if "train_loss" in event.metrics:
        parts.append(f"loss {event.metrics['train_loss']:.3f}")
    if "val_acc" in event.metrics:
        parts.append(f"validation {event.metrics['val_acc']:6.1%}")
    return "  ".join(parts)
