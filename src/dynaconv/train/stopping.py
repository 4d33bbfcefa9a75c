"""Signals that ask a run to stop: it finishes its step, saves, and ends in order. Ctrl+C twice ends it at once."""

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
    """A run was asked to stop, and has. As `KeyboardInterrupt`, it is no failure that a loop over runs goes on after.

    Attributes:
        signal: Name of the signal.
        step: Updates of the weights so far; ``None`` where several runs were stopped.
        kept: A sentence on what is kept, where the run could not be saved after that step.
        directory: The run's folder.
    """

    def __init__(self, signal: str, step: int | None = None, *, kept: str = "", directory: Path | None = None) -> None:
        after = "" if step is None else f" after step {step}"
        super().__init__(f"stopped by {signal}{after}{f', which is not saved. {kept}' if kept else ''}")
        self.signal = signal
        self.step = step
        self.kept = kept
        self.directory = directory


class StopSignals:
    """Notes Ctrl+C, SIGTERM, SIGHUP, and SIGUSR1, which SLURM sends ahead of the end of a job's time.

    A context manager. A second Ctrl+C raises `KeyboardInterrupt` wherever the program is. A signal that the process was
    started to ignore, as under nohup, stays ignored. A signal that came too late to stop the block is sent again after
    it.

    Attributes:
        received: Name of the first signal that came, or ``None``.
        hurried: Whether Ctrl+C came twice.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self.hurried = False
        self._interrupted = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self._before.items():
            # `None` is a handler that Python did not install and cannot give back.
            if handler is not None:
                signal.signal(number, handler)
        if self.received is not None and kind is None:
            signal.raise_signal(signal.Signals[self.received])

    def install(self) -> None:
        """Take the signals over; from a thread, which cannot have them, do nothing.

        Lightning's own handlers are not kept: under SLURM one saves in the middle of a step, and with several
        processes one communicates from inside the signal.
        """
        if threading.current_thread() is threading.main_thread():
            for number, before in self._before.items():
                signal.signal(number, signal.SIG_IGN if before is signal.SIG_IGN else self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name
        if number == getattr(signal, "SIGHUP", None):
            _leave_terminal()
        if number != signal.SIGINT:
            return
        if self._interrupted:
            self.hurried = True
            raise KeyboardInterrupt
        self._interrupted = True
        if multiprocessing.parent_process() is None and is_first_process():
            # Not `print`, which may be running already.
            with contextlib.suppress(OSError):
                os.write(2, _HINT)


def _leave_terminal() -> None:
    """Let standard output and error go nowhere where their terminal is gone, so that the run can be saved in peace."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


def start_loader_process(worker: int) -> None:
    """Prepare a process that loads images: a signal to the whole process group is for the process that trains.

    It still needs images to finish its step. It ends its loaders itself, by SIGTERM if they hang, so that signal counts
    where it comes from there.

    Args:
        worker: Its number, which its random numbers follow from.
    """
    for number in _SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    # Elsewhere than on Linux torch's own handler ends the process, whoever sent the signal.
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told, args=(os.getppid(),), daemon=True).start()
    pl_worker_init_function(worker)


def _end_when_told(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
