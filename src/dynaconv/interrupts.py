"""Propagation of Ctrl+C through libraries that catch or convert `KeyboardInterrupt`."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def propagating_interrupts(*, at_end: bool = False) -> Iterator[None]:
    """Raise `KeyboardInterrupt` if the block receives Ctrl+C (SIGINT), even if the block catches it.

    Compilers, and C++ code with Python callbacks, convert `KeyboardInterrupt` to errors of their own, or continue with
    an incomplete result. Only the main thread receives signals; in other threads, only the block's errors are checked.

    Args:
        at_end: Raise only after the block has finished, because it must not be interrupted halfway.

    Raises:
        KeyboardInterrupt: SIGINT was received, or an error of the block was caused by `KeyboardInterrupt`.
    """
    received = False
    previous = signal.getsignal(signal.SIGINT)
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if os.getpid() != process:
            # A child process that the library forked would print a traceback.
            raise SystemExit(128 + number)
        received = True
        if not at_end and callable(previous):
            previous(number, frame)

    # A process that ignores SIGINT continues to ignore it.
    installs = callable(previous) and threading.current_thread() is threading.main_thread()
    if installs:
        signal.signal(signal.SIGINT, handle)
    try:
        yield
    except Exception as error:
        if received or _caused_by_interrupt(error):
            raise KeyboardInterrupt from error
        raise
    finally:
        if installs:
            signal.signal(signal.SIGINT, previous)
    if received:
        raise KeyboardInterrupt


def _caused_by_interrupt(error: BaseException | None) -> bool:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False
