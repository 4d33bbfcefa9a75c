"""Stops a run on a signal: it finishes its step, saves and exits. A second Ctrl+C ends it at once."""

import contextlib
import multiprocessing
import os
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from lightning.fabric.utilities.seed import pl_worker_init_function

from dynaconv.train.folders import is_first_process

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
_HINT = b"\ndynaconv: the run stops once it is saved; press Ctrl+C again to stop at once.\n"


class RunStopped(BaseException):
    """A signal has stopped a run. Like `KeyboardInterrupt`, it also ends a loop that continues after failed runs.

    Attributes:
        signal: Name of the signal.
        step: Number of weight updates so far; ``None`` if several runs were stopped.
        directory: The run's folder.
    """

    def __init__(self, signal: str, step: int | None = None, *, kept: str = "", directory: Path | None = None) -> None:
        after = "" if step is None else f" after step {step}"
        super().__init__(f"stopped by {signal}{after}{f', which is not saved. {kept}' if kept else ''}")
        self.signal = signal
        self.step = step
        self.directory = directory


class StopSignals:
    """Records Ctrl+C, SIGTERM, SIGHUP, and SIGUSR1, which SLURM can send before the time limit of a job.

    It is a context manager. A second Ctrl+C raises `KeyboardInterrupt` at once. A signal that the process was started
    to ignore, as under nohup, stays ignored. If the block ends normally in spite of a signal, the signal is raised
    again after the block.

    Attributes:
        received: Name of the first signal received, or ``None``.
        interrupted_twice: Whether Ctrl+C was received twice.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self.interrupted_twice = False
        self._interrupted = False
        self._previous_handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        self._previous_handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self._previous_handlers.items():
            # `None` is a handler that Python did not install and cannot restore.
            if handler is not None:
                signal.signal(number, handler)
        if self.received is not None and kind is None:
            signal.raise_signal(signal.Signals[self.received])

    def install(self) -> None:
        """Install the handlers; does nothing outside the main thread, which alone can install them.

        They replace Lightning's handlers: under SLURM one of those saves in the middle of a step, and with several
        processes one communicates inside the handler.
        """
        if threading.current_thread() is threading.main_thread():
            for number, before in self._previous_handlers.items():
                signal.signal(number, signal.SIG_IGN if before is signal.SIG_IGN else self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name
        if number == getattr(signal, "SIGHUP", None):
            _redirect_closed_terminal()
        if number != signal.SIGINT:
            return
        if self._interrupted:
            self.interrupted_twice = True
            raise KeyboardInterrupt
        self._interrupted = True
        if multiprocessing.parent_process() is None and is_first_process():
            # Not `print`, which the signal may have interrupted and which is not reentrant.
            with contextlib.suppress(OSError):
                os.write(2, _HINT)


def _redirect_closed_terminal() -> None:
    """Redirect standard output and error to the null device if their terminal is closed: the run can still save."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            os.close(null)


def start_loader_process(worker: int) -> None:
    """Set up the signals and the random seed of a data loader's worker process.

    The worker ignores signals to the whole process group: the training process still needs images to finish its step.
    That process ends its workers itself, by SIGTERM if they hang, so the worker obeys SIGTERM only from there.

    Args:
        worker: Number of the worker, which determines its seed.
    """
    for number in _SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    # Without sigwaitinfo, as on macOS, torch's own handler ends the process, whoever sent the signal.
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_sigterm_from, args=(os.getppid(),), daemon=True).start()
    pl_worker_init_function(worker)


def _exit_on_sigterm_from(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
