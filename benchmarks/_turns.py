"""The timing harness for candidates in processes of their own, which take turns in alternating rounds.

The thread pools of two runtimes in one process would compete for the processors.
"""

import contextlib
import math
import multiprocessing
import multiprocessing.connection
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from dynaconv.measure.timing import alternating_rounds

Label = TypeVar("Label")
Server = Callable[[], Generator[Any, Any, None]]
"""Loads a candidate, yields a first message, then an answer to everything that it is sent."""
SETTLE_SECONDS = 0.2
"""A thread pool takes about that long to settle after another process used the processors."""
LEAST_ROUNDS = 3


@dataclass(frozen=True)
class _Failed:
    reason: str


def call_seconds(run: Callable[[], Any], *, calls: float = math.inf, seconds: float = math.inf) -> list[float]:
    """Return the seconds of each call, at least one, until their number or their total time is reached."""
    times: list[float] = []
    total = 0.0
    while not times or (len(times) < calls and total < seconds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
        total += times[-1]
    return times


def burst(run: Callable[[], Any], **limits: float) -> float:
    """Return the median milliseconds of the calls after a warm-up; `limits` are those of `call_seconds`."""
    call_seconds(run, seconds=SETTLE_SECONDS)
    return statistics.median(call_seconds(run, **limits)) * 1e3


def bursts(load: Callable[[], Callable[[], Any]], **limits: float) -> Generator[Any, Any, None]:
    """Answer every request with the milliseconds of a burst."""
    run = load()
    call_seconds(run, calls=5)
    yield "ready"
    while True:
        yield burst(run, **limits)


def _serve(server: Server, pipe: Connection) -> None:
    # Any error of one candidate is reported, and the others go on.
    try:
        answers = server()
        pipe.send(next(answers))
        while (request := pipe.recv()) is not None:
            pipe.send(answers.send(request))
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        pipe.send(_Failed(f"{type(error).__name__}: {lines[0] if lines else 'no message'}"))


def _receive(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except (EOFError, ConnectionError):
        return _Failed("its process ended, as it does without enough memory")


@contextlib.contextmanager
def started(
    servers: Mapping[Label, Server], jobs: int = 1
) -> Iterator[tuple[dict[Label, Connection], dict[Label, Any], dict[Label, str]]]:
    """Yield a pipe to each candidate's process, its first message, and the reasons of those that failed.

    Args:
        servers: By label; they are pickled into the processes.
        jobs: Number of processes that load at a time: exporting and compiling networks take memory and processors.
    """
    context = multiprocessing.get_context("spawn")
    loading: dict[Connection, Label] = {}
    processes: list[BaseProcess] = []
    pipes: dict[Label, Connection] = {}
    messages: dict[Label, Any] = {}
    failures: dict[Label, str] = {}
    waiting = list(servers.items())
    try:
        while waiting or loading:
            while waiting and len(loading) < jobs:
                label, server = waiting.pop(0)
                ours, theirs = context.Pipe()
                processes.append(context.Process(target=_serve, args=(server, theirs), daemon=True))
                processes[-1].start()
                # Otherwise this process would keep the pipe open after the other has ended.
                theirs.close()
                loading[ours] = label
            for pipe in multiprocessing.connection.wait(list(loading)):
                assert isinstance(pipe, Connection)
                label, message = loading.pop(pipe), _receive(pipe)
                if isinstance(message, _Failed):
                    failures[label] = message.reason
                else:
                    pipes[label], messages[label] = pipe, message
        yield pipes, messages, failures
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    for pipe in pipes.values():
        with contextlib.suppress(OSError):
            pipe.send(None)
    for process in processes:
        process.join()


def take_turns(
    pipes: Mapping[Label, Connection], requests: Sequence[tuple[Label, Any]], rounds: int, seconds: float = math.inf
) -> tuple[dict[tuple[Label, Any], list[Any]], dict[tuple[Label, Any], str]]:
    """Return the answers to every request, round by round, and the reasons of those that failed.

    Args:
        pipes: Of `started`.
        requests: Labels of processes, and what to send them.
        rounds: Maximum number of rounds.
        seconds: No round starts after that time, except the first `LEAST_ROUNDS`.
    """
    answers: dict[tuple[Label, Any], list[Any]] = {request: [] for request in requests}
    failures: dict[tuple[Label, Any], str] = {}
    end = time.monotonic() + seconds
    for index, order in alternating_rounds(requests, rounds):
        if index >= LEAST_ROUNDS and time.monotonic() > end:
            break
        for request in order:
            if request not in failures:
                label, content = request
                with contextlib.suppress(BrokenPipeError):
                    pipes[label].send(content)
                answer = _receive(pipes[label])
                if isinstance(answer, _Failed):
                    failures[request] = answer.reason
                else:
                    answers[request].append(answer)
    return answers, failures


@contextlib.contextmanager
def busy_processors(count: int) -> Iterator[None]:
    """Keep the first processors busy, each by a process that is bound to it."""
    spin = "import os\nos.sched_setaffinity(0, {%d})\nwhile True: pass"
    loops = [subprocess.Popen([sys.executable, "-c", spin % index]) for index in range(count)]
    # The loops have to start, and the scheduler has to move running threads.
    time.sleep(0.2 if loops else 0)
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure(
    loads: Mapping[str, Callable[[], Callable[[], Any]]],
    rounds: int,
    *,
    processes: int = 1,
    busy: Sequence[int] = (),
    **limits: float,
) -> dict[tuple[str, int], list[float]]:
    """Return milliseconds, round by round, by candidate and number of busy processors.

    Args:
        loads: Candidates by label.
        rounds: Number of rounds of each set of processes.
        processes: Number of sets of processes, one after another. The placement of a process in memory changes its
            times by some per cent.
        busy: Numbers of processors that are kept busy, in further turns of each round.
        limits: Those of `call_seconds`.

    Raises:
        RuntimeError: A candidate fails.
    """
    servers = {label: partial(bursts, load, **limits) for label, load in loads.items()}
    found: dict[tuple[str, int], list[float]] = {(label, count): [] for count in (0, *busy) for label in loads}
    for _ in range(processes):
        with started(servers) as (pipes, _, failures):
            for index, counts in alternating_rounds((0, *busy), rounds):
                for count in counts:
                    labels = list(pipes)[:: 1 if index % 2 == 0 else -1]
                    with busy_processors(count):
                        answers, broken = take_turns(pipes, [(label, count) for label in labels], 1)
                    failures |= {label: reason for (label, _), reason in broken.items()}
                    if failures:
                        raise RuntimeError("; ".join(f"{label} fails: {reason}" for label, reason in failures.items()))
                    for case, (milliseconds,) in answers.items():
                        found[case].append(milliseconds)
    return found
