"""Candidates of a measurement, each in a process of its own, that take turns.

The thread pools of two runtimes in one process would take each other's processor. A round is one turn of each, in an
order drawn anew, so that a machine that slows down for a while slows all of them down.
"""

import argparse
import contextlib
import multiprocessing
import multiprocessing.connection
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

Label = TypeVar("Label")
Load = Callable[[], Callable[[], Any]]
Serve = Callable[[Connection, Any, argparse.Namespace], None]
SETTLE_SECONDS = 0.2
"""A thread pool takes about that long to settle after another process had the processors."""


@dataclass(frozen=True)
class Failed:
    """What a process sends in place of its answer."""

    reason: str


def settle(run: Callable[[], Any]) -> None:
    """Run for a moment, at least once."""
    end = time.perf_counter() + SETTLE_SECONDS
    run()
    while time.perf_counter() < end:
        run()


def serve(pipe: Connection, load: Load, args: argparse.Namespace) -> None:
    """Time a burst of calls whenever asked for one."""
    run = load()
    for _ in range(5):
        run()
    pipe.send("ready")
    while pipe.recv():
        settle(run)
        times = []
        for index in range(args.burst + 1):
            start = time.perf_counter()
            run()
            # The first call of a burst wakes threads and fills caches that the others had.
            if index:
                times.append(time.perf_counter() - start)
        pipe.send(statistics.median(times) * 1e3)


def _guarded(serve: Serve, pipe: Connection, load: Any, args: argparse.Namespace) -> None:
    try:
        serve(pipe, load, args)
    # One candidate's trouble, of whatever kind, is not that of the others.
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        pipe.send(Failed(f"{type(error).__name__}: {lines[0] if lines else 'no message'}"))


def receive(pipe: Connection) -> Any:
    """What the process sends; `Failed` where it has ended."""
    try:
        return pipe.recv()
    except (EOFError, ConnectionError):
        return Failed("its process ended, which a lack of memory does")


def ask(pipe: Connection, what: Any) -> Any:
    """The answer of a candidate's process, `Failed` where it has none."""
    with contextlib.suppress(BrokenPipeError):
        pipe.send(what)
    return receive(pipe)


@contextlib.contextmanager
def started(
    loads: Mapping[Label, Any], args: argparse.Namespace, serve: Serve = serve, jobs: int = 1
) -> Iterator[tuple[dict[Label, Connection], dict[Label, Any]]]:
    """A pipe to each candidate's process, and the first word of each; one that `Failed` has no pipe.

    A process answers what it is sent and ends at False. What loads a candidate is pickled into its process.

    Args:
        loads: By label.
        args: For ``serve``.
        serve: Loads the candidate, sends a word and answers.
        jobs: How many load at a time: exporting and compiling networks take both time and processors.
    """
    context = multiprocessing.get_context("spawn")
    loading: dict[Connection, Label] = {}
    processes: dict[Label, BaseProcess] = {}
    pipes: dict[Label, Connection] = {}
    words: dict[Label, Any] = {}
    waiting = list(loads.items())
    try:
        while waiting or loading:
            while waiting and len(loading) < jobs:
                label, load = waiting.pop(0)
                ours, theirs = context.Pipe()
                processes[label] = context.Process(target=_guarded, args=(serve, theirs, load, args), daemon=True)
                processes[label].start()
                # Else our own end of it keeps the pipe open when the process ends.
                theirs.close()
                loading[ours] = label
            for pipe in multiprocessing.connection.wait(list(loading)):
                assert isinstance(pipe, Connection)
                label = loading.pop(pipe)
                words[label] = receive(pipe)
                if not isinstance(words[label], Failed):
                    pipes[label] = pipe
        yield pipes, words
    except BaseException:
        for process in processes.values():
            process.terminate()
        raise
    for pipe in pipes.values():
        with contextlib.suppress(OSError):
            pipe.send(False)
    for process in processes.values():
        process.join()


@contextlib.contextmanager
def candidates(
    loads: Mapping[str, Any], args: argparse.Namespace, serve: Serve = serve
) -> Iterator[dict[str, Connection]]:
    """As `started`, where all have to start.

    Raises:
        RuntimeError: One does not.
    """
    with started(loads, args, serve) as (pipes, words):
        for label, word in words.items():
            if isinstance(word, Failed):
                raise RuntimeError(f"{label} cannot be run: {word.reason}")
        yield pipes


def measure(loads: Mapping[str, Load], args: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds of each candidate, round by round.

    Raises:
        RuntimeError: One cannot be run.
    """
    found: dict[str, list[float]] = {label: [] for label in loads}
    with candidates(loads, args) as pipes:
        for _ in range(args.rounds):
            for label in random.sample(list(loads), len(loads)):
                answer = ask(pipes[label], True)
                if isinstance(answer, Failed):
                    raise RuntimeError(f"{label} fails: {answer.reason}")
                found[label].append(answer)
    return found
