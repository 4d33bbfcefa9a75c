"""What the tests let a child process do. It imports little, because the child imports it."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any


def adder(number: int) -> Callable[..., Any]:
    def add(*numbers: int) -> int:
        print("to nobody")
        if not numbers:
            from dynaconv.errors import ExportError

            raise ExportError("nothing to add.")
        return number + sum(numbers)

    return add


def dying(name: str) -> Callable[..., Any]:
    def die(*_: Any) -> None:
        os.write(2, b"last\nwords\n")
        os.kill(os.getpid(), signal.Signals[name])

    return die


def forking(end: str) -> Callable[..., Any]:
    """Forks a process that lives for a minute, then returns or dies."""

    def fork() -> None:
        if not os.fork():
            time.sleep(60)
            os._exit(0)
        if end:
            os.kill(os.getpid(), signal.Signals[end])

    return fork


def exiting() -> Callable[..., Any]:
    os._exit(3)


def unopenable(*_: Any) -> Callable[..., Any]:
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def unrunnable(*_: Any) -> Callable[..., Any]:
    return dying("SIGSEGV")


class OddError(Exception):
    """Cannot be pickled."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__(f"{left} and {right}\nand more")


def odd() -> Callable[..., Any]:
    raise OddError(1, 2)
