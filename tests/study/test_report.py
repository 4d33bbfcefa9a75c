"""The report, from runs written by hand, so that every number in it is known."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from dynaconv.errors import RunError
from dynaconv.files import write_csv, write_json
from dynaconv.study.claims import judge
from dynaconv.study.definition import Claim
from dynaconv.study.folder import RunKey, StudyFolder
from dynaconv.study.load import load_study
from dynaconv.study.report import write_report
from dynaconv.study.results import Results, read_results
from dynaconv.study.trace import COLUMNS
from tests.messages import refuses
from tests.study.helpers import write_study

ACCURACY = {"slow": {0: 0.80, 1: 0.82, 2: 0.84}, "fast": {0: 0.81, 1: 0.84, 2: 0.87}, "worse": {0: 0.7, 1: 0.73}}
CLAIM: dict[str, Any] = {"text": "faster is better", "published": "90 against 80"}


def finish(folder: StudyFolder, variant: str, seed: int, accuracy: float) -> None:
    """Write what a run that is done leaves."""
    place = folder.run_folder(RunKey(variant, seed))
    place.mkdir(parents=True)
    versions = {"python": "3.11", "torch": "2.0", "dynaconv": "0.1", "timm": "1.0"}
    summary = {"test_accuracy": accuracy, "test_loss": 1 - accuracy, "val_accuracy": None, "params": 1234}
    write_json(place / "summary.json", {**summary, "threads": 1, "versions": versions})
    write_csv(place / "trace.csv", COLUMNS, [{"step": step, "loss": seed + 1 / step} for step in (5, 10, 15)])


def cost(step: list[float], latency: list[float], parameters: int) -> dict[str, Any]:
    return {
        "parameters": parameters,
        "madds": 10 * parameters,
        "madds_executed": 11 * parameters,
        "step_peak_bytes": 5_000_000,
        "step_seconds": sorted(step)[len(step) // 2],
        "latency_seconds": sorted(latency)[len(latency) // 2],
        "step_rounds": step,
        "latency_rounds": latency,
    }


@pytest.fixture
def results(tmp_path: Path) -> Results:
    figures = {"accuracy": {"kind": "accuracy"}, "loss": {"kind": "loss_by_step"}, "time": {"kind": "loss_by_second"}}
    claims = [{**CLAIM, "variant": "fast", "against": "slow"}]
    variants = {"slow": {}, "fast": {"title": "a higher rate"}, "worse": {}}
    study = load_study(write_study(tmp_path / "tiny.yaml", seeds=3, variants=variants, figures=figures, claims=claims))
    folder = StudyFolder(tmp_path / "f")
    for variant, runs in ACCURACY.items():
        for seed, accuracy in runs.items():
            finish(folder, variant, seed, accuracy)
    folder.record_failure(RunKey("worse", 2), "diverged", "the training loss became nan")
    conditions = {"batch": 8, "input_size": [1, 8, 8], "device": "cpu", "threads": 1, "rounds": 3, "torch": "2.0"}
    costs = {"slow": cost([1.0, 1.1, 0.9], [0.1, 0.1, 0.1], 1234), "fast": cost([2.0, 2.2, 2.7], [0.1, 0.2, 0.05], 999)}
    write_json(
        folder.path / "costs.json",
        {"conditions": {**conditions, "dynaconv": "0.1", "measured": "2026-01-02"}, "variants": costs},
    )
    return read_results(study, folder)


def test_the_page_holds_means_paired_differences_and_costs(results: Results, tmp_path: Path) -> None:
    page = write_report(results, tmp_path / "out").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert lines[0] == (
        "| variant | runs | test accuracy | minus slow | parameters | MAdds | MAdds run | ms a step | MB in a step "
        "| inference ms |"
    )
    # Deviations of 0.02 and 0.03 about the means, 0.01 about the mean difference of 0.02; t is 4.3027, n is 3.
    assert lines[2].startswith("| slow | 3 | 82.00 ± 4.97 |  | 1,234 | 0.01M | 0.01M | 1000 | 5 | 100.00 |")
    assert lines[3].startswith("| a higher rate | 3 | 84.00 ± 7.45 | +2.00 ± 2.48 | 1,234 |")
    assert lines[4].startswith("| worse | 2 of 3, 1 diverged | 71.50 ± 19.06 | -9.50 ± 6.35 |")
    assert "Runs: 8 done, 1 diverged." in page
    assert "torch 2.0, dynaconv 0.1" in page
    assert "medians of 3 rounds in turns (2026-01-02)" in page
    for name in ("accuracy", "loss", "time"):
        assert f"({name}.png)" in page
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_csv_holds_the_same_numbers(results: Results, tmp_path: Path) -> None:
    write_report(results, tmp_path / "out")
    with (tmp_path / "out" / "results.csv").open() as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    assert float(rows["fast"]["difference"]) == pytest.approx(0.02)
    assert float(rows["fast"]["difference_half_width"]) == pytest.approx(4.302653 * 0.01 / 3**0.5, rel=1e-5)
    assert rows["slow"]["difference"] == ""
    assert rows["worse"]["diverged"] == "1"
    assert rows["worse"]["step_seconds"] == ""
    with (tmp_path / "out" / "runs.csv").open() as file:
        states = [row["state"] for row in csv.DictReader(file)]
    assert states == ["done"] * 8 + ["diverged"]


def test_the_mean_trace_is_over_the_seeds(results: Results) -> None:
    assert results.mean_trace("slow")[0] == pytest.approx((5, 1.2, 0.2, 2.2))
    assert results.mean_trace("worse")[2] == pytest.approx((15, 0.5 + 1 / 15, 1 / 15, 1 + 1 / 15))


@pytest.mark.parametrize(
    ("variant", "against", "metric", "expect", "verdict"),
    [
        ("fast", "slow", "accuracy", "higher", "cannot tell"),  # 2.00 with an interval of 2.48
        ("slow", "worse", "accuracy", "higher", "agrees"),
        ("worse", "slow", "accuracy", "higher", "differs"),
        ("fast", "slow", "parameters", "lower", "agrees"),
        ("fast", "slow", "madds", "higher", "differs"),
        ("fast", "slow", "step_seconds", "higher", "agrees"),  # ratios 2, 2, 3
        ("fast", "slow", "latency_seconds", "higher", "cannot tell"),  # ratios 1, 2, 0.5
        ("fast", "worse", "madds", "lower", "cannot tell"),  # not measured
    ],
)
def test_a_claim_is_judged_by_what_the_runs_can_tell(
    results: Results, variant: str, against: str, metric: Any, expect: Any, verdict: str
) -> None:
    claim = Claim(**CLAIM, variant=variant, against=against, metric=metric, expect=expect)
    assert judge(claim, results).verdict == verdict


def test_a_report_without_costs_and_without_all_runs_says_so(results: Results, tmp_path: Path) -> None:
    (results.folder.path / "costs.json").unlink()
    (results.folder.run_folder(RunKey("fast", 2)) / "summary.json").unlink()
    page = write_report(read_results(results.study, results.folder), tmp_path / "out").read_text()
    assert "The study is not finished" in page
    assert "| a higher rate | 2 of 3, 1 open |" in page
    assert "ms a step" not in page
    assert "Costs are not measured yet" in page
    assert "time.png" not in page


def test_a_study_without_runs_has_no_report(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path / "tiny.yaml"))
    with refuses(RunError):
        read_results(study, StudyFolder(tmp_path / "none"))


def test_a_sweep_is_drawn_and_a_diverged_run_with_it(tmp_path: Path) -> None:
    sweep = {"key": "model.lr", "values": [0.1, 1.0]}
    path = write_study(
        tmp_path / "s.yaml", sweep=sweep, seeds=1, reference="slow@0.1", figures={"rates": {"kind": "rates"}}
    )
    folder = StudyFolder(tmp_path / "f")
    finish(folder, "slow@0.1", 0, 0.8)
    finish(folder, "fast@0.1", 0, 0.7)
    folder.record_failure(RunKey("fast@1.0", 0), "diverged", "nan")
    page = write_report(read_results(load_study(path), folder), tmp_path / "out").read_text()
    assert "(rates.png)" in page
    assert "| test accuracy by lr | 0.1 | 1.0 |" in page
    assert "| slow | 80.00 | 0 of 1, 1 open |" in page
    assert "| a higher rate | 70.00 | 0 of 1, 1 diverged |" in page


def test_a_family_may_lack_the_first_value_of_a_sweep(tmp_path: Path) -> None:
    sweep = {"key": "model.lr", "values": [0.1, 1.0]}
    variants = {"slow": {}, "late": {"title": "late", "at": {0.1: None}}}
    file = write_study(tmp_path / "s.yaml", sweep=sweep, variants=variants, seeds=1, reference="slow@0.1")
    folder = StudyFolder(tmp_path / "f")
    finish(folder, "late@1.0", 0, 0.5)
    page = write_report(read_results(load_study(file), folder), tmp_path / "out").read_text()
    assert "| late |  | 50.00 |" in page


def test_pairs_of_a_sweep_are_compared_drawn_and_written(tmp_path: Path) -> None:
    figures = {"gain": {"kind": "gain"}, "frontier": {"kind": "frontier"}}
    contrasts = {"rate": {"title": "higher against lower", "variant": "fast", "against": "slow"}}
    sweep = {"key": "size", "values": {8: {"data.image_size": 8}, 16: {"data.image_size": 16}}}
    fast = {"title": "a higher rate", "change": {"model.lr": 0.1, "trainer.max_epochs": 3}}
    given = {
        "sweep": sweep,
        "variants": {"slow": {}, "fast": fast},
        "reference": "slow@8",
        "contrasts": contrasts,
        "figures": figures,
        "seeds": 3,
    }
    study = load_study(write_study(tmp_path / "s.yaml", **given))
    folder = StudyFolder(tmp_path / "f")
    for variant in ("slow", "fast"):
        for seed, accuracy in ACCURACY[variant].items():
            finish(folder, f"{variant}@8", seed, accuracy)
    finish(folder, "slow@16", 0, 0.5)
    costs = {"slow@8": cost([1.0], [0.1], 1000), "fast@8": {**cost([2.0], [0.1], 1500), "native_seconds": 1e-4}}
    conditions = {"batch": 8, "input_size": [1, 8, 8], "device": "cpu", "threads": 1, "rounds": 3, "torch": "2.0"}
    conditions |= {"dynaconv": "0.1", "measured": "2026-01-02"}
    write_json(folder.path / "costs.json", {"conditions": conditions, "variants": costs})
    page = write_report(read_results(study, folder), tmp_path / "out").read_text()
    compared = "| higher against lower | a higher rate, size 8 | slow, size 8 | 3 | +2.00 ± 2.48 "
    assert compared + "| 1.50 | 1.50 |  | 2.00 | 6.00 |" in page
    assert "| higher against lower | a higher rate, size 16 |" not in page
    assert "(gain.png)" in page
    assert "(frontier.png)" in page
    with (tmp_path / "out" / "contrasts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows] == ["fast@8", "fast@16"]
    assert float(rows[0]["difference"]) == pytest.approx(0.02)
    assert (rows[0]["step_seconds"], rows[0]["native_seconds"], rows[1]["difference"]) == ("2.0", "", "")


def test_a_damaged_summary_is_named(results: Results) -> None:
    file = results.folder.run_folder(RunKey("fast", 0)) / "summary.json"
    file.write_text(json.dumps({"test_accuracy": 1})[:-3])
    with refuses(RunError):
        read_results(results.study, results.folder)
