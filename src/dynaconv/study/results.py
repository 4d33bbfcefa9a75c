"""Reads the results of a study's runs, by variant."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynaconv.errors import RunError
from dynaconv.study.definition import Study
from dynaconv.study.folder import COSTS_FILE, TRACE_FILE, RunKey, State, StudyFolder, run_keys
from dynaconv.study.statistics import Interval, paired_difference, t_interval
from dynaconv.study.trace import read_trace


@dataclass(kw_only=True)
class VariantResults:
    """Results of one variant's runs.

    Attributes:
        name, title: Name and title of the variant.
        states: State of each run, by seed.
        accuracy, val_accuracy, test_loss: Values of the finished runs, by seed; `val_accuracy` only with validation.
        records: Summary of each finished run and outcome of each other run, by seed; empty if the run has not ended.
        parameters: Number of parameters, from the runs; None before the first finished run.
        threads, versions: Thread counts and package versions, from the runs.
        cost: The variant's entry in `costs.json`; None if it was not measured.
    """

    name: str
    title: str
    states: dict[int, State] = field(default_factory=dict)
    accuracy: dict[int, float] = field(default_factory=dict)
    val_accuracy: dict[int, float] = field(default_factory=dict)
    test_loss: dict[int, float] = field(default_factory=dict)
    records: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    parameters: int | None = None
    threads: set[int] = field(default_factory=set)
    versions: set[str] = field(default_factory=set)
    cost: Mapping[str, Any] | None = None

    @property
    def mean(self) -> Interval | None:
        """Mean test accuracy and its interval; None without finished runs."""
        return t_interval(list(self.accuracy.values()))

    @property
    def val_mean(self) -> Interval | None:
        """Mean validation accuracy and its interval; None without validation."""
        return t_interval(list(self.val_accuracy.values()))

    def difference(self, reference: "VariantResults") -> Interval | None:
        """Return the paired difference of test accuracy to a reference, seed by seed."""
        return paired_difference(self.accuracy, reference.accuracy)

    def runs(self) -> str:
        """Describe how many runs are in the mean, and the states of the others: ``4 of 5, 1 diverged``."""
        done, planned = len(self.accuracy), len(self.states)
        others = Counter(state for state in self.states.values() if state != "done")
        rest = [f"{count} {state}" for state, count in sorted(others.items())]
        return ", ".join([str(done) if done == planned else f"{done} of {planned}", *rest])


@dataclass(frozen=True, kw_only=True)
class Results:
    """All results of a study; `conditions` are those of the cost measurement, empty without one."""

    study: Study
    folder: StudyFolder
    variants: Mapping[str, VariantResults]
    conditions: Mapping[str, Any]

    @property
    def reference(self) -> VariantResults:
        """The variant that the others are compared with."""
        return self.variants[self.study.reference]

    def trace(self, name: str, seed: int) -> Sequence[Mapping[str, Any]]:
        """Return step and training loss of a run; empty if it was copied from a report without them."""
        file = self.folder.run_folder(RunKey(name, seed)) / TRACE_FILE
        return read_trace(file) if file.is_file() else ()

    def traced(self, name: str) -> int:
        """Return how many of a variant's finished runs have their training loss."""
        return sum(bool(self.trace(name, seed)) for seed in self.variants[name].accuracy)

    def mean_trace(self, name: str) -> list[tuple[int, float, float, float]]:
        """Return step, and mean, minimum and maximum training loss over the runs of a variant that have one."""
        by_step: dict[int, list[float]] = {}
        for seed in self.variants[name].accuracy:
            for row in self.trace(name, seed):
                by_step.setdefault(row["step"], []).append(row["loss"])
        return [(step, sum(losses) / len(losses), min(losses), max(losses)) for step, losses in sorted(by_step.items())]


def read_results(study: Study, folder: StudyFolder) -> Results:
    """Read the results of every run.

    Raises:
        RunError: No run has ended, or a file is damaged.
    """
    costs = _read_costs(folder.path / COSTS_FILE)
    variants = {
        name: VariantResults(name=name, title=variant.title, cost=costs.get("variants", {}).get(name))
        for name, variant in study.variants.items()
    }
    for key in run_keys(study):
        results = variants[key.variant]
        results.states[key.seed] = folder.state(key)
        if results.states[key.seed] == "done":
            _add(results, key.seed, folder.summary(key))
        else:
            results.records[key.seed] = folder.outcome(key) or {}
    if not any(state in ("done", "diverged") for results in variants.values() for state in results.states.values()):
        raise RunError(f"no run in {folder.path} has ended; run the study first, or pass its --folder.")
    return Results(study=study, folder=folder, variants=variants, conditions=costs.get("conditions", {}))


def _add(results: VariantResults, seed: int, summary: Mapping[str, Any]) -> None:
    results.accuracy[seed] = summary["test_accuracy"]
    results.test_loss[seed] = summary["test_loss"]
    if summary["val_accuracy"] is not None:
        results.val_accuracy[seed] = summary["val_accuracy"]
    results.records[seed] = summary
    results.parameters = summary["params"]
    results.threads.add(summary["threads"])
    results.versions.add(f"torch {summary['versions']['torch']}, dynaconv {summary['versions']['dynaconv']}")


def _read_costs(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{file} is damaged; measure again with --costs.") from error
    return dict(values)
