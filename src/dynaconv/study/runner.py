"""Runs a study's open runs, alone or with other processes on the same folder."""

import json
import multiprocessing
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from lightning.pytorch import Callback

from dynaconv.errors import DataError, RunError, TrainingDivergedError
from dynaconv.study.definition import Study
from dynaconv.study.folder import TRACE_FILE, RunKey, State, StudyFolder, run_keys
from dynaconv.study.load import load_study
from dynaconv.study.trace import LossTrace
from dynaconv.train.config import resolve
from dynaconv.train.run import fit, resume
from dynaconv.train.stopping import RunStopped, StopSignals
from dynaconv.train.threads import threads

Say = Callable[[str], None]
_POLL_SECONDS = 0.2
"""Seconds between checks for a stop signal, while other processes run a study."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The selection of runs, and how to run them.

    Attributes:
        only: Names of variants; empty for all.
        seeds: Seeds; empty for all.
        retry: Repeat runs that diverged or failed.
        keep_checkpoints: Keep the checkpoints and weights of runs that have ended.
    """

    only: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    retry: bool = False
    keep_checkpoints: bool = False


def check_recipes(study: Study) -> None:
    """Check every variant's recipe, so that a misspelt option is found before hours of runs.

    Raises:
        RunError: A recipe has an option that does not exist, or a value that does not fit.
    """
    seen = set()
    for variant in study.variants.values():
        text = json.dumps(variant.config.to_dict(), sort_keys=True)
        if text in seen:
            continue
        seen.add(text)
        try:
            resolve(variant.config)
        except RunError as error:
            raise RunError(f"variant {variant.name!r}: {error}") from error


def run_study(
    study: Study, folder: StudyFolder, options: RunOptions, *, say: Say = print, callbacks: Sequence[Callback] = ()
) -> None:
    """Run the open runs in this process, except those that other processes are running.

    A run that diverged or failed is recorded, and the next one starts.

    Args:
        study: The study.
        folder: Folder of the study.
        options: Selection of runs, and how to run them.
        say: Called with one line per run.
        callbacks: Further Lightning callbacks for every run.

    Raises:
        RunError: A recipe is wrong, or the folder belongs to another study.
        DataError: The data cannot be read.
        RunStopped: Ctrl+C, SIGTERM, SIGHUP or SIGUSR1 was received; the current run is saved, and the same call
            continues it.
    """
    check_recipes(study)
    folder.claim(study)
    with threads(study.threads):
        if options.retry:
            _clear_failures(study, folder, options)
        # Each search starts at the first run, because another process may have left one unfinished meanwhile.
        while _run_next(study, folder, options, say, callbacks):
            pass


def _clear_failures(study: Study, folder: StudyFolder, options: RunOptions) -> None:
    for key in run_keys(study, options.only, options.seeds):
        with folder.lock(key) as acquired:
            if acquired and (folder.outcome(key) or {}).get("state") in ("diverged", "failed"):
                folder.clear(key)


def _run_next(study: Study, folder: StudyFolder, options: RunOptions, say: Say, callbacks: Sequence[Callback]) -> bool:
    """Run the first run that is not locked and has not ended; return False if there is none."""
    keys = run_keys(study, options.only, options.seeds)
    for key in keys:
        if folder.outcome(key) is not None:
            continue
        # A process that lists the runs holds each lock for a moment.
        with folder.lock(key, wait=0.5) as acquired:
            # The run may have ended before the lock was acquired.
            if not acquired or folder.outcome(key) is not None:
                continue
            line = _execute(study, folder, key, callbacks)
            if not options.keep_checkpoints:
                folder.drop_weights(key)
        ended = sum(folder.outcome(other) is not None for other in keys)
        say(f"{key}: {line}  ({ended} of {len(keys)})")
        return True
    return False


def _execute(study: Study, folder: StudyFolder, key: RunKey, callbacks: Sequence[Callback]) -> str:
    directory = folder.run_folder(key)
    trace = [LossTrace(directory / TRACE_FILE), *callbacks]
    command = f"dynaconv study {study.name} --only {key.variant} --seeds {key.seed}"
    try:
        if folder.last_checkpoint(key).is_file():
            result = resume(directory, callbacks=trace, command=command)
        else:
            # Files of a process that was killed before its first checkpoint; no other process holds the lock.
            folder.clear(key)
            config = study.variants[key.variant].config.with_changes(seed=key.seed)
            result = fit(config, out=directory, callbacks=trace, command=command)
    except TrainingDivergedError as error:
        folder.record_failure(key, "diverged", str(error))
        return f"diverged: {error}"
    except DataError:
        # Every run would fail without its data. The run is not recorded as failed, so that it can continue later.
        raise
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        folder.record_failure(key, "failed", message)
        return f"failed: {message}"
    return f"test accuracy {result.summary['test_accuracy']:.2%}, {result.summary['train_seconds']:.0f} s"


def run_in_processes(study: str | Path, folder: Path, options: RunOptions, jobs: int) -> None:
    """Run a study's open runs in several processes, which share the threads unless the study sets their number.

    Args:
        study: Name or file of the study.
        folder: Folder of the study.
        options: Selection of runs, and how to run them.
        jobs: Number of processes.

    Raises:
        RunError: One of the processes ended early.
        RunStopped: Ctrl+C, SIGTERM, SIGHUP or SIGUSR1 was received; the current runs are saved.
        KeyboardInterrupt: Ctrl+C was received twice; the processes are killed.
    """
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_worker, args=(str(study), folder, options, jobs)) for _ in range(jobs)]
    with StopSignals() as stop:
        try:
            # Ctrl+C reaches every process of a terminal. Processes that are started while SIGINT is ignored keep
            # ignoring it, and this process asks them to stop.
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)
            for worker in workers:
                worker.start()
            signal.signal(signal.SIGINT, before)
            _wait(workers, stop)
        except BaseException:
            for worker in workers:
                if worker.is_alive():
                    worker.kill()
            raise
        if stop.received is not None:
            raise RunStopped(stop.received)
    if any(worker.exitcode for worker in workers):
        raise RunError("one of the processes ended early; run the same command again to continue.")


def _wait(workers: Sequence[BaseProcess], stop: StopSignals) -> None:
    """Wait for the processes to end; after a stop signal, ask each of them once to stop."""
    stop_requested = False
    while alive := [worker for worker in workers if worker.is_alive()]:
        if stop.received is not None and not stop_requested:
            stop_requested = True
            for worker in alive:
                worker.terminate()
        alive[0].join(_POLL_SECONDS)


def _worker(study: str, folder: Path, options: RunOptions, jobs: int) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
    try:
        run_study(load_study(study), StudyFolder(folder), options, say=lambda line: print(line, flush=True))
    # The next call continues the run from its last checkpoint, so a traceback would not help.
    except (KeyboardInterrupt, RunStopped):
        sys.exit(130)


def states(study: Study, folder: StudyFolder, options: RunOptions | None = None) -> dict[RunKey, State]:
    """Return the state of each run."""
    only, seeds = (options.only, options.seeds) if options is not None else ((), ())
    return {key: folder.state(key) for key in run_keys(study, only, seeds)}
