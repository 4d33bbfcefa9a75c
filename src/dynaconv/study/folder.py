"""A study's folder: one folder per run, the state of each run, and locks that end with the process that holds them."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from dynaconv.errors import RunError
from dynaconv.files import write_json
from dynaconv.study.definition import Study, Variant
from dynaconv.train.checkpoint import MODEL_FILE
from dynaconv.train.folders import CHECKPOINT_FOLDER, LAST, SUMMARY_FILE

STUDY_FILE, OUTCOME_FILE, TRACE_FILE, COSTS_FILE = "study.json", "outcome.json", "trace.csv", "costs.json"
State = Literal["done", "diverged", "failed", "running", "interrupted", "open"]


@dataclass(frozen=True)
class RunKey:
    """One run of a study."""

    variant: str
    seed: int

    def __str__(self) -> str:
        return f"{self.variant}, seed {self.seed}"


def run_keys(study: Study, only: tuple[str, ...] = (), seeds: tuple[int, ...] = ()) -> list[RunKey]:
    """Return the runs of a study, ordered so that all variants' first seeds come before their second seeds.

    Args:
        study: The study.
        only: Names of variants; empty for all.
        seeds: Seeds; empty for all.
    """
    chosen = [variant for variant in study.variants.values() if not only or variant.name in only]
    most = max((len(variant.seeds) for variant in chosen), default=0)
    return [
        RunKey(variant.name, variant.seeds[turn])
        for turn in range(most)
        for variant in chosen
        if turn < len(variant.seeds) and (not seeds or variant.seeds[turn] in seeds)
    ]


class StudyFolder:
    """The folder of a study, which holds its runs.

    Args:
        path: The folder; it is created when the study is first run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def run_folder(self, key: RunKey) -> Path:
        """Return the folder of one run."""
        return self.path / "runs" / key.variant / f"seed-{key.seed}"

    @contextmanager
    def lock(self, key: RunKey, *, wait: float = 0.0) -> Iterator[bool]:
        """Lock a run, so that no other process runs it; yield False if another process holds the lock.

        The system releases the lock when the process ends, however it ends.

        Args:
            key: The run.
            wait: Seconds to wait for another process to release the lock.
        """
        file = self.run_folder(key).with_suffix(".lock")
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file, timeout=wait)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def state(self, key: RunKey) -> State:
        """Return the state of a run."""
        outcome = self.outcome(key)
        if outcome is not None:
            state: State = outcome["state"]
            return state
        if self._is_held(key):
            return "running"
        return "interrupted" if self.last_checkpoint(key).is_file() else "open"

    def _is_held(self, key: RunKey) -> bool:
        if not self.run_folder(key).with_suffix(".lock").is_file():
            return False
        with self.lock(key) as free:
            return not free

    def outcome(self, key: RunKey) -> dict[str, Any] | None:
        """Return `state` of a run that has ended, and `message` unless it is done; None for any other run."""
        folder = self.run_folder(key)
        if (folder / SUMMARY_FILE).is_file():
            return {"state": "done"}
        file = folder / OUTCOME_FILE
        return _read_json(file) if file.is_file() else None

    def summary(self, key: RunKey) -> dict[str, Any]:
        """Return the summary of a finished run."""
        return _read_json(self.run_folder(key) / SUMMARY_FILE)

    def last_checkpoint(self, key: RunKey) -> Path:
        """Return the path of the checkpoint from which an interrupted run continues."""
        return self.run_folder(key) / CHECKPOINT_FOLDER / LAST

    def record_failure(self, key: RunKey, state: Literal["diverged", "failed"], message: str) -> None:
        """Record why a run ended early."""
        folder = self.run_folder(key)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / OUTCOME_FILE, {"state": state, "message": message})

    def clear(self, key: RunKey) -> None:
        """Remove a run's folder, so that it can start again."""
        shutil.rmtree(self.run_folder(key), ignore_errors=True)

    def drop_weights(self, key: RunKey) -> None:
        """Remove the checkpoints and the weights of a run that has ended; its numbers stay."""
        folder = self.run_folder(key)
        shutil.rmtree(folder / CHECKPOINT_FOLDER, ignore_errors=True)
        (folder / MODEL_FILE).unlink(missing_ok=True)

    def claim(self, study: Study) -> None:
        """Assign the folder to a study, or check that it belongs to this study.

        Variants, seeds, tables and figures may be added at any time; a variant that has runs may not change.

        Raises:
            RunError: The folder belongs to another study, a variant with runs has changed, or the folder cannot be
                created.
        """
        now = recipes(study)
        file, lock = self.path / STUDY_FILE, self.path / f"{STUDY_FILE}.lock"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # Before the lock, which would leave a file in a folder of something else.
            others = [path for path in self.path.iterdir() if STUDY_FILE not in path.name]
            if others and not file.is_file():
                raise RunError(f"{self.path} is neither empty nor the folder of a study; pass another --folder.")
            with FileLock(lock):
                if file.is_file():
                    before = _read_json(file)
                    self._check_same(before, now)
                    now["variants"] = {**before["variants"], **now["variants"]}
                write_json(file, now)
        except OSError as error:
            raise RunError(f"cannot create the study's folder {self.path}: {error.strerror}.") from error

    def _check_same(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        if before["study"] != now["study"]:
            raise RunError(
                f"{self.path} holds the study {before['study']!r}, not {now['study']!r}; pass another --folder."
            )
        changed = changed_recipe(now, before, [name for name in before["variants"] if self._has_runs(name)])
        if changed is not None:
            name, changes = changed
            raise RunError(
                f"the variant {name!r} has runs in {self.path}, and its recipe has changed since: "
                f"{'; '.join(changes)}. Pass another --folder, or remove {self.path / 'runs' / name}."
            )

    def _has_runs(self, variant: str) -> bool:
        folder = self.path / "runs" / variant
        return folder.is_dir() and any(path.is_dir() for path in folder.iterdir())


def recipes(study: Study) -> dict[str, Any]:
    """Return a study's name, threads and the recipe of every variant, as `STUDY_FILE` stores them."""
    variants = {name: _recipe(variant) for name, variant in study.variants.items()}
    return {"study": study.name, "threads": study.threads, "variants": variants}


def changed_recipe(
    now: Mapping[str, Any], before: Mapping[str, Any], variants: Iterable[str]
) -> tuple[str, list[str]] | None:
    """Find the first variant whose recipe differs, of those that both have, and the differences; None if none does.

    Args:
        now, before: Current and earlier result of `recipes`.
        variants: Names to compare.
    """
    for name in variants:
        if name not in before["variants"] or name not in now["variants"]:
            continue
        changes = differences(before["variants"][name], now["variants"][name])
        if before["threads"] != now["threads"]:
            changes.append(f"threads was {before['threads']!r} and is {now['threads']!r}")
        if changes:
            return name, changes
    return None


def _recipe(variant: Variant) -> dict[str, Any]:
    values = variant.config.to_dict()
    # Each run has its own seed.
    del values["seed"]
    # As read back from JSON: tuples become lists, keys strings.
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """Describe, key by key, how two nested dictionaries differ."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [*before, *(key for key in now if key not in before)]
        missing = "left out"
        return [
            line
            for key in keys
            for line in differences(before.get(key, missing), now.get(key, missing), f"{path}.{key}".lstrip("."))
        ]
    return [] if before == now else [f"{path} was {before!r} and is {now!r}"]


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{file} is damaged; remove its folder to repeat the run.") from error
    if not isinstance(values, dict):
        raise RunError(f"{file} is damaged; remove its folder to repeat the run.")
    return values
