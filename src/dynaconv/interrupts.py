"""Propagation of Ctrl+C and SIGTERM through libraries that catch or convert `KeyboardInterrupt`."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that end a process: that of `kill` and of batch systems, and that of a closed terminal."""


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP was received.

    Attributes:
        number: Number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}.")
        self.number = number


@contextmanager
def terminating() -> Iterator[None]:
    """Raise `Terminated` in the block at SIGTERM and SIGHUP, so that it cleans up as after Ctrl+C.

    Without it, these signals end the process at once, and temporary files and child processes stay. A signal that is
    ignored, as SIGHUP under nohup, or that has another handler is left alone. Only the main thread receives signals.
    """
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            raise SystemExit(128 + number)
        raise Terminated(number)

    in_main_thread = threading.current_thread() is threading.main_thread()
    numbers = [number for number in _ENDING if in_main_thread and signal.getsignal(number) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def propagating_interrupts(*, at_end: bool = False) -> Iterator[None]:
    """Raise `KeyboardInterrupt` if the block receives Ctrl+C (SIGINT), even if the block catches it.

    Compilers, and C++ code with Python callbacks, convert `KeyboardInterrupt` to errors of their own, or continue with
    an incomplete result. Within `terminating`, the same holds for `Terminated`. Only the main thread receives signals;
    in other threads, only the block's errors are checked.

    Args:
        at_end: Raise only after the block has finished, because it must not be interrupted halfway.

    Raises:
        KeyboardInterrupt: A signal was received, or an error of the block was caused by `KeyboardInterrupt`.
    """
    received: KeyboardInterrupt | None = None
    previous = _handlers()
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if os.getpid() != process:
            # A child process that the library forked would print a traceback.
            raise SystemExit(128 + number)
        received = KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)
        if not at_end:
            previous[number](number, frame)

    for number in previous:
        signal.signal(number, handle)
    try:
        yield
    except Exception as error:
        if received is not None or _caused_by_interrupt(error):
            raise received or KeyboardInterrupt from error
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received is not None:
        raise received


def _handlers() -> dict[int, Callable[[int, FrameType | None], object]]:
    """Return the handlers of the signals that end a block; an ignored one and the caller's own SIGTERM do not."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, *_ENDING)}
    return {
        number: handler
        for number, handler in found.items()
        if callable(handler) and (number == signal.SIGINT or handler.__module__ == __name__)
    }


def _caused_by_interrupt(error: BaseException | None) -> bool:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False
