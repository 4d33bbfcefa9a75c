"""Ctrl+C while a library works: an interrupt still, whatever the library makes of it."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def passing_interrupts(*, at_end: bool = False) -> Iterator[None]:
    """Raise `KeyboardInterrupt` for a Ctrl+C that came inside the block, also where the block swallowed it.

    Compilers and C++ code that is called back turn `KeyboardInterrupt` into errors of their own, or carry on with less
    than was asked for. From a thread, which gets no signals, only the errors are looked at.

    Args:
        at_end: Let the block finish first: what it does must not be cut in two.

    Raises:
        KeyboardInterrupt: SIGINT came, or an error of the block goes back to an interrupt.
    """
    came = False
    before = signal.getsignal(signal.SIGINT)
    process = os.getpid()

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if os.getpid() != process:
            # A helper that the library forked, which would print a traceback.
            raise SystemExit(128 + number)
        came = True
        if not at_end and callable(before):
            before(number, frame)

    # A process that ignores the signal goes on ignoring it.
    listens = callable(before) and threading.current_thread() is threading.main_thread()
    if listens:
        signal.signal(signal.SIGINT, note)
    try:
        yield
    except Exception as error:
        if came or _goes_back_to_interrupt(error):
            raise KeyboardInterrupt from error
        raise
    finally:
        if listens:
            signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def _goes_back_to_interrupt(error: BaseException | None) -> bool:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False
