"""Signals that ask a run to stop: it finishes its step, saves, and ends in order."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class RunStopped(Exception):  # noqa: N818  # not an error: the run did as it was asked
    """A run was asked to stop, and has.

    Attributes:
        signal: Name of the signal.
        step: Updates of the weights so far.
    """

    def __init__(self, signal: str, step: int) -> None:
        super().__init__(f"stopped by {signal} after step {step}")
        self.signal = signal
        self.step = step


class StopSignals:
    """Notes SIGTERM, and SIGUSR1, which SLURM sends ahead of the end of a job's time; a context manager.

    Attributes:
        received: Name of the first signal that came, or ``None``.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                # `None` is a handler that Python did not install and cannot give back.
                if handler is not None:
                    signal.signal(number, handler)

    def install(self) -> None:
        """Take the signals over; from a thread, which cannot have them, do nothing.

        Lightning's own handlers are not kept: under SLURM one saves in the middle of a step, and with several
        processes one communicates from inside the signal.
        """
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name
