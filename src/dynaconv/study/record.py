"""The record of the runs in a report, with which a study can continue without the run folders."""

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynaconv.errors import RunError
from dynaconv.files import write_csv, write_json, write_text
from dynaconv.study.definition import Study
from dynaconv.study.folder import (
    COSTS_FILE,
    STUDY_FILE,
    TRACE_FILE,
    RunKey,
    StudyFolder,
    changed_recipe,
    recipes,
    run_keys,
)
from dynaconv.study.results import Results
from dynaconv.study.trace import COLUMNS as TRACE_COLUMNS
from dynaconv.train.folders import SUMMARY_FILE

RUNS_FILE, TRACES_FILE, RESULTS_FILE, PAGE_FILE = "runs.csv", "traces.csv", "results.csv", "README.md"
RUN_COLUMNS = (
    "variant",
    "seed",
    "state",
    "test_accuracy",
    "test_loss",
    "val_accuracy",
    "params",
    "threads",
    "torch",
    "dynaconv",
    "message",
)
_ENDED = ("done", "diverged")
_STATES = (*_ENDED, "failed", "running", "interrupted", "open")
Say = Callable[[str], None]


def write_record(results: Results, out: Path) -> None:
    """Write the record of the runs: a row for each run, the training losses, and the recipes."""
    write_csv(out / RUNS_FILE, RUN_COLUMNS, list(_run_rows(results)))
    _write_traces(results, out / TRACES_FILE)
    _write_recipes(results.study, out / STUDY_FILE)


def _run_rows(results: Results) -> Iterator[dict[str, Any]]:
    for variant in results.variants.values():
        for seed, state in variant.states.items():
            row = {"variant": variant.name, "seed": seed, "state": state}
            found = variant.records.get(seed, {})
            versions = found.get("versions") or {}
            yield row | {key: found.get(key, versions.get(key)) for key in RUN_COLUMNS[3:]}


def _write_traces(results: Results, file: Path) -> None:
    """Write one table of all training losses: a row for each step, a column for each run."""
    columns: list[str] = []
    by_step: dict[int, dict[str, Any]] = {}
    for variant in results.variants.values():
        for seed in variant.accuracy:
            name = f"{variant.name}/{seed}"
            rows = results.trace(variant.name, seed)
            columns += [name] if rows else []
            for row in rows:
                by_step.setdefault(row["step"], {"step": row["step"]})[name] = row["loss"]
    if columns:
        write_csv(file, ("step", *columns), [by_step[step] for step in sorted(by_step)])
    else:
        file.unlink(missing_ok=True)


def _write_recipes(study: Study, file: Path) -> None:
    """Write the recipes as in a study's folder, but with one line per variant."""
    values = recipes(study)
    lines = [f"    {json.dumps(name)}: {json.dumps(recipe)}" for name, recipe in values.pop("variants").items()]
    head = [f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in values.items()]
    write_text(file, "{\n" + "".join(head) + '  "variants": {\n' + ",\n".join(lines) + "\n  }\n}\n")


@dataclass(frozen=True, kw_only=True)
class _Record:
    """The record in a report."""

    runs: Mapping[RunKey, Mapping[str, Any]]
    traces: Mapping[RunKey, list[dict[str, Any]]]
    recipes: Mapping[str, Any]
    costs: str | None


def import_runs(
    study: Study,
    folder: StudyFolder,
    report: Path,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    *,
    say: Say = print,
) -> int:
    """Copy the ended runs of a report into a study's folder, as if they had run there.

    Runs that the folder already has are not changed, and failed or open runs remain open. The costs of the report are
    copied if the folder has none.

    Args:
        study: The study.
        folder: Folder of the study; it is created if it does not exist.
        report: A folder written by `dynaconv.study.report.write_report`.
        only, seeds: Copy only the runs of these variants and seeds; empty for all.
        say: Called with each line for the user.

    Returns:
        Number of copied runs.

    Raises:
        RunError: There is no report, it is damaged or of another study, or a recipe has changed since.
    """
    record = _read(report)
    wanted = set(run_keys(study, tuple(only), tuple(seeds)))
    ended = {key: run for key, run in record.runs.items() if run["state"] in _ENDED}
    _check_same_study(study, report, record, {key.variant for key in ended if key in wanted})
    removed = [key for key in ended if key not in set(run_keys(study))]
    folder.claim(study)
    copied = [
        key for key, run in ended.items() if key in wanted and _copy_run(folder, key, run, record.traces.get(key))
    ]
    if record.costs is not None and not (folder.path / COSTS_FILE).is_file():
        write_text(folder.path / COSTS_FILE, record.costs)
    say(f"{len(copied)} runs of {report} imported into {folder.path}")
    if removed:
        say(f"{len(removed)} runs left out, which the study no longer has, the first of them {removed[0]}")
    return len(copied)


def _copy_run(folder: StudyFolder, key: RunKey, run: Mapping[str, Any], trace: list[dict[str, Any]] | None) -> bool:
    with folder.lock(key, wait=0.5) as acquired:
        if not acquired or folder.outcome(key) is not None or folder.last_checkpoint(key).is_file():
            return False
        run_folder = folder.run_folder(key)
        run_folder.mkdir(parents=True, exist_ok=True)
        if run["state"] == "diverged":
            folder.record_failure(key, "diverged", run["message"])
            return True
        if trace:
            write_csv(run_folder / TRACE_FILE, TRACE_COLUMNS, trace)
        # Last, because a run with a summary counts as done.
        write_json(run_folder / SUMMARY_FILE, {"seed": key.seed, **run["summary"]})
        return True


def _check_same_study(study: Study, report: Path, record: _Record, copied: set[str]) -> None:
    if record.recipes["study"] != study.name:
        raise RunError(f"{report} is a report of the study {record.recipes['study']!r}, not of {study.name!r}.")
    changed = changed_recipe(recipes(study), record.recipes, sorted(copied))
    if changed is not None:
        name, changes = changed
        raise RunError(
            f"the recipe of the variant {name!r} has changed since {report} was written: {'; '.join(changes)}. Its "
            f"runs do not belong to this study; select other variants with --only."
        )


def _read(report: Path) -> _Record:
    for name in (RUNS_FILE, STUDY_FILE):
        if not (report / name).is_file():
            raise RunError(f"{report} is not the report of a study: it has no {name}.")
    try:
        runs = dict(map(_read_run, _rows(report / RUNS_FILE)))
        traces = _read_traces(report / TRACES_FILE)
        stored_recipes = json.loads((report / STUDY_FILE).read_text(encoding="utf-8"))
        if not ({"study", "threads", "variants"} <= stored_recipes.keys()):
            raise ValueError(f"{STUDY_FILE} lacks a key")
        costs = report / COSTS_FILE
        costs_json = costs.read_text(encoding="utf-8") if costs.is_file() else None
        if costs_json is not None:
            json.loads(costs_json)
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise RunError(f"the report {report} is damaged: {' '.join(str(error).split())}.") from error
    return _Record(runs=runs, traces=traces, recipes=stored_recipes, costs=costs_json)


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream, strict=True)
        missing = [name for name in RUN_COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{file.name} has no column {missing[0]!r}")
        return [{key: value or "" for key, value in row.items() if key is not None} for row in reader]


def _read_run(row: Mapping[str, str]) -> tuple[RunKey, dict[str, Any]]:
    key, state = RunKey(row["variant"], int(row["seed"])), row["state"]
    if state not in _STATES:
        raise ValueError(f"{RUNS_FILE} has the state {state!r} for {key}")
    run: dict[str, Any] = {"state": state, "message": row["message"]}
    if state != "done":
        return key, run
    numbers = {name: _number(row[name]) for name in ("test_accuracy", "test_loss", "val_accuracy")}
    if numbers["test_accuracy"] is None or not 0 <= numbers["test_accuracy"] <= 1:
        raise ValueError(f"{RUNS_FILE} has the accuracy {row['test_accuracy']!r} for {key}")
    counts = {name: int(row[name]) for name in ("params", "threads")}
    run["summary"] = {**numbers, **counts, "versions": {name: row[name] for name in ("torch", "dynaconv")}}
    return key, run


def _number(text: str) -> float | None:
    if not text:
        return None
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a finite number")
    return value


def _read_traces(file: Path) -> dict[RunKey, list[dict[str, Any]]]:
    if not file.is_file():
        return {}
    traces: dict[RunKey, list[dict[str, Any]]] = {}
    with file.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream, strict=True):
            step = int(row.pop("step"))
            for name, loss in row.items():
                variant, _, seed = name.rpartition("/")
                if loss:
                    traces.setdefault(RunKey(variant, int(seed)), []).append({"step": step, "loss": float(loss)})
    return traces
