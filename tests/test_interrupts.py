"""Ctrl+C inside a library: an interrupt whatever the library makes of it, and at once or at the end as asked."""

import contextlib
import multiprocessing
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from dynaconv.interrupts import Terminated, propagating_interrupts, terminating


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def swallow() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        press()


def turn() -> None:
    try:
        press()
    except KeyboardInterrupt as error:
        raise RuntimeError("the compiler failed") from error


def hide() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        press()
    raise RuntimeError("the compiler failed")


def turn_without_a_signal() -> None:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise RuntimeError("the compiler failed")  # noqa: B904  # as C++ code does


@pytest.mark.parametrize("work", [press, swallow, turn, hide, turn_without_a_signal])
@pytest.mark.parametrize("depth", [1, 2])
def test_an_interrupt_stays_one(work: Callable[[], None], depth: int) -> None:
    def nested(depth: int) -> None:
        with propagating_interrupts():
            nested(depth - 1) if depth else work()

    with pytest.raises(KeyboardInterrupt):
        nested(depth)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="own fault"), propagating_interrupts():
        raise RuntimeError("own fault")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_must_not_be_cut_in_two_is_finished_first() -> None:
    done: list[int] = []

    def work() -> None:
        with propagating_interrupts(at_end=True):
            for number in (1, 2):
                press()
                done.append(number)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [1, 2]


def test_a_process_that_ignores_the_signal_goes_on() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with propagating_interrupts():
            press()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_helper_that_a_library_forked_ends_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    with propagating_interrupts():
        helper = multiprocessing.get_context("fork").Process(target=press)
        helper.start()
        helper.join()
    assert helper.exitcode == 130
    assert capfd.readouterr().err == ""


def test_a_thread_looks_at_the_errors_alone() -> None:
    caught: list[BaseException] = []

    def work() -> None:
        try:
            with propagating_interrupts():
                turn_without_a_signal()
        except KeyboardInterrupt as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(caught) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_signal_that_ends_the_process_is_an_interrupt_within_the_context_alone(
    number: signal.Signals, depth: int
) -> None:
    def nested(depth: int) -> None:
        if depth == 0:
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(number)
            # Only here is it lost.
            raise RuntimeError("the compiler failed")
        with propagating_interrupts():
            nested(depth - 1)

    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(RuntimeError if depth == 0 else Terminated) as caught, terminating():
            nested(depth)
        assert depth == 0 or str(caught.value) == f"stopped by {number.name}."
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("own", [signal.SIG_IGN, lambda *_: None], ids=["ignored", "handled"])
def test_a_signal_that_the_caller_handles_is_left_to_it(own: Any) -> None:
    before = signal.signal(signal.SIGTERM, own)
    try:
        with terminating(), propagating_interrupts():
            signal.raise_signal(signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
