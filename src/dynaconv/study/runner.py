"""Does a study's open runs, alone or with other processes on the same folder."""

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

Say = Callable[[str], None]
_LOOK_EVERY = 0.2
"""Seconds between two looks at whether a study in processes is asked to stop."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which runs to do, and how.

    Attributes:
        only: Names of variants; all when empty.
        seeds: Seeds; all when empty.
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
    study: Study, folder: StudyFolder, wanted: Wanted, *, say: Say = print, callbacks: Sequence[Callback] = ()
) -> None:
    """Do the runs that nobody has done or is doing, in this process.

    A run that diverged or failed is recorded and the next one starts.

    Args:
        study: The study.
        folder: Where its runs lie.
        wanted: Which runs.
        say: Gets one line a run.
        callbacks: Further Lightning callbacks of every run.

    Raises:
        RunError: A recipe is wrong, or the folder belongs to another study.
        DataError: The data cannot be read.
        RunStopped: Ctrl+C, SIGTERM, SIGHUP or SIGUSR1 came; the run at hand is saved, and the same call goes on from
            there.
    """
    check_recipes(study)
    folder.claim(study)
    threads = torch.get_num_threads()
    try:
        if study.threads is not None:
            torch.set_num_threads(study.threads)
        if wanted.retry:
            _clear_failures(study, folder, wanted)
        # Again from the start after each run: another process may have left one unfinished meanwhile.
        while _do_next(study, folder, wanted, say, callbacks):
            pass
    finally:
        torch.set_num_threads(threads)


def _clear_failures(study: Study, folder: StudyFolder, wanted: Wanted) -> None:
    for key in run_keys(study, wanted.only, wanted.seeds):
        with folder.lock(key) as mine:
            if mine and (folder.outcome(key) or {}).get("state") in ("diverged", "failed"):
                folder.clear(key)


def _do_next(study: Study, folder: StudyFolder, wanted: Wanted, say: Say, callbacks: Sequence[Callback]) -> bool:
    """Do the first run that is free and has not ended; False where there is none."""
    keys = run_keys(study, wanted.only, wanted.seeds)
    for key in keys:
        if folder.outcome(key) is not None:
            continue
        # Whoever lists the runs holds each lock for a moment.
        with folder.lock(key, wait=0.5) as mine:
            # It may have ended between the look and the lock.
            if not mine or folder.outcome(key) is not None:
                continue
            line = _do(study, folder, key, callbacks)
            if not wanted.keep_checkpoints:
                folder.drop_weights(key)
        ended = sum(folder.outcome(other) is not None for other in keys)
        say(f"{key}: {line}  ({ended} of {len(keys)})")
        return True
    return False


def _do(study: Study, folder: StudyFolder, key: RunKey, callbacks: Sequence[Callback]) -> str:
    directory = folder.run_folder(key)
    trace = [LossTrace(directory / TRACE_FILE), *callbacks]
    command = f"dynaconv study {study.name} --only {key.variant} --seeds {key.seed}"
    try:
        if folder.last_checkpoint(key).is_file():
            result = resume(directory, callbacks=trace, command=command)
        else:
            # What a process that was killed before its first checkpoint left; nobody else holds the lock.
            folder.clear(key)
            config = study.variants[key.variant].config.with_changes(seed=key.seed)
            result = fit(config, out=directory, callbacks=trace, command=command)
    except TrainingDivergedError as error:
        folder.record_failure(key, "diverged", str(error))
        return f"diverged: {error}"
    except DataError:
        # Every run would fail on data that are not there; the folder stays as it is, to go on from.
        raise
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        folder.record_failure(key, "failed", message)
        return f"failed: {message}"
    return f"test accuracy {result.summary['test_accuracy']:.2%}, {result.summary['train_seconds']:.0f} s"


def run_in_processes(study: str | Path, folder: Path, wanted: Wanted, jobs: int) -> None:
    """Do a study's open runs in several processes side by side, which share the threads unless the study counts them.

    Args:
        study: Its name or file.
        folder: Where its runs lie.
        wanted: Which runs.
        jobs: Number of processes.

    Raises:
        RunError: One of the processes ended early.
        RunStopped: Ctrl+C, SIGTERM, SIGHUP or SIGUSR1 came; the runs at hand are saved.
        KeyboardInterrupt: Ctrl+C came twice; the processes are killed.
    """
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_worker, args=(str(study), folder, wanted, jobs)) for _ in range(jobs)]
    with StopSignals() as stop:
        try:
            # Ctrl+C reaches every process of a terminal. Processes that are started while it is ignored go on ignoring
            # it, and are asked to stop by this one.
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
        raise RunError("one of the processes ended early; run the same command again to go on.")


def _wait(workers: Sequence[BaseProcess], stop: StopSignals) -> None:
    """Wait for the processes to end; ask each once to stop when this process is."""
    asked = False
    while alive := [worker for worker in workers if worker.is_alive()]:
        if stop.received is not None and not asked:
            asked = True
            for worker in alive:
                worker.terminate()
        alive[0].join(_LOOK_EVERY)


def _worker(study: str, folder: Path, wanted: Wanted, jobs: int) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
    try:
        run_study(load_study(study), StudyFolder(folder), wanted, say=lambda line: print(line, flush=True))
    # The run goes on from its last checkpoint next time; a traceback would say nothing.
    except (KeyboardInterrupt, RunStopped):
        sys.exit(130)


def states(study: Study, folder: StudyFolder, wanted: Wanted | None = None) -> dict[RunKey, State]:
    """What became of each run so far."""
    only, seeds = (wanted.only, wanted.seeds) if wanted is not None else ((), ())
    return {key: folder.state(key) for key in run_keys(study, only, seeds)}
