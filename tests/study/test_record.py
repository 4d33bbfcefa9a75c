"""What a report keeps is enough to go on from, and a report that does not fit is refused in one sentence."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dynaconv.cli import main
from dynaconv.errors import RunError
from dynaconv.files import write_json
from dynaconv.study.definition import Study
from dynaconv.study.folder import RunKey, StudyFolder
from dynaconv.study.load import load_study
from dynaconv.study.record import import_runs
from dynaconv.study.report import write_report
from dynaconv.study.results import read_results
from dynaconv.study.runner import RunOptions, run_study, states
from tests.messages import refuses
from tests.study.helpers import TINY, write_study
from tests.study.test_report import cost, finish

FIGURES = {"loss": {"kind": "loss_by_step"}, "accuracy": {"kind": "accuracy"}}


def quiet(line: str) -> None:
    pass


def make_study(tmp_path: Path, **changes: Any) -> Study:
    return load_study(write_study(tmp_path / "tiny.yaml", **{"seeds": 3, "figures": FIGURES} | changes))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path)


@pytest.fixture
def report(study: Study, tmp_path: Path) -> Path:
    """Of a study with four runs done, one diverged and one failed, whose folder is gone."""
    folder = StudyFolder(tmp_path / "lost")
    folder.claim(study)
    for variant, seed, accuracy in (("slow", 0, 0.8), ("slow", 1, 0.82), ("fast", 0, 0.7), ("fast", 1, 1 / 3)):
        finish(folder, variant, seed, accuracy)
    folder.record_failure(RunKey("slow", 2), "diverged", "the training loss, after a while, became nan")
    folder.record_failure(RunKey("fast", 2), "failed", "RuntimeError: no memory")
    write_json(folder.path / "costs.json", {"conditions": {}, "variants": {"slow": cost([1.0], [0.1], 1234)}})
    out = write_report(read_results(study, folder), tmp_path / "report").parent
    shutil.rmtree(folder.path)
    return out


def test_a_report_of_what_was_taken_from_a_report_is_the_same(study: Study, report: Path, tmp_path: Path) -> None:
    folder, lines = StudyFolder(tmp_path / "new"), []
    assert import_runs(study, folder, report, say=lines.append) == 5
    assert lines == [f"5 runs of {report} imported into {folder.path}"]
    found = {str(key): state for key, state in states(study, folder).items() if state != "done"}
    assert found == {"slow, seed 2": "diverged", "fast, seed 2": "open"}
    again = write_report(read_results(study, folder), tmp_path / "again").parent
    for file in ("runs.csv", "traces.csv", "study.json", "costs.json", "results.csv", "loss.png"):
        before = (report / file).read_bytes()
        if file == "runs.csv":
            before = before.replace(b"fast,2,failed,,,,,,,,RuntimeError: no memory", b"fast,2,open,,,,,,,,")
        assert (again / file).read_bytes() == before, file
    assert (again / "runs.csv").read_text().splitlines()[1] == f"slow,0,done,0.8,{1 - 0.8!r},,1234,1,2.0,0.1,"
    assert import_runs(study, folder, report, say=quiet) == 0


@pytest.mark.usefixtures("own_environment")
def test_only_what_is_missing_runs(study: Study, report: Path, tmp_path: Path) -> None:
    folder, lines = StudyFolder(tmp_path / "new"), []
    import_runs(study, folder, report, ("fast",), (0, 2), say=quiet)
    run_study(study, folder, RunOptions(only=("fast",), seeds=(0, 2)), say=lines.append)
    assert [line.partition(":")[0] for line in lines] == ["fast, seed 2"]
    import_runs(study, folder, report, say=quiet)
    assert set(read_results(study, folder).variants["fast"].accuracy) == {0, 1, 2}


def test_what_the_folder_has_stays(study: Study, report: Path, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "new")
    folder.claim(study)
    finish(folder, "slow", 0, 0.5)
    folder.last_checkpoint(RunKey("slow", 1)).parent.mkdir(parents=True)
    folder.last_checkpoint(RunKey("slow", 1)).touch()
    assert import_runs(study, folder, report, say=quiet) == 3
    assert folder.summary(RunKey("slow", 0))["test_accuracy"] == 0.5
    assert folder.state(RunKey("slow", 1)) == "interrupted"


def test_runs_that_the_study_no_longer_has_are_left_out(report: Path, tmp_path: Path) -> None:
    smaller, lines = make_study(tmp_path, variants={"slow": {}}, seeds=1), []
    assert import_runs(smaller, StudyFolder(tmp_path / "new"), report, say=lines.append) == 1
    assert lines[1] == "4 runs left out, which the study no longer has, the first of them slow, seed 1"


def test_a_changed_recipe_is_refused_and_the_others_are_taken(report: Path, tmp_path: Path) -> None:
    variants = TINY["variants"] | {"fast": {"change": {"model.lr": 0.2}}}
    changed, folder = make_study(tmp_path, variants=variants), StudyFolder(tmp_path / "new")
    with refuses(RunError, "model.lr"):
        import_runs(changed, folder, report, say=quiet)
    assert not folder.path.exists()
    assert import_runs(changed, folder, report, ("slow",), say=quiet) == 3
    with refuses(RunError, "threads"):
        import_runs(make_study(tmp_path, threads=2), StudyFolder(tmp_path / "other"), report, say=quiet)


def test_another_studys_report_is_refused(report: Path, tmp_path: Path) -> None:
    other = load_study(write_study(tmp_path / "other.yaml", seeds=3, title="Other"))
    with refuses(RunError, "'other'"):
        import_runs(other, StudyFolder(tmp_path / "new"), report, say=quiet)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("runs.csv", "variant,seed\nslow,0\n"),
        ("runs.csv", "variant,seed,state,test_accuracy\nslow,0,done,eighty\n"),
        ("runs.csv", "variant,seed,state,test_accuracy\nslow,0,done,80\n"),
        ("runs.csv", "variant,seed,state,test_accuracy\nslow,0,done\n"),
        ("runs.csv", "variant,seed,state,test_accuracy\nslow,0,well,0.8\n"),
        ("traces.csv", "step,slow\n5,1.0\n"),
        ("study.json", "{}"),
        ("study.json", "["),
        ("costs.json", "{"),
    ],
    ids=[
        "no state",
        "words for an accuracy",
        "accuracy out of range",
        "no accuracy",
        "unknown state",
        "traces",
        "no keys",
        "no JSON",
        "costs cut short",
    ],
)
def test_a_damaged_report_is_refused(study: Study, report: Path, file: str, text: str) -> None:
    (report / file).write_text(text)
    with refuses(RunError):
        import_runs(study, StudyFolder(report.parent / "new"), report, say=quiet)
    assert not (report.parent / "new").exists()


def test_the_command_takes_a_report_first(
    study: Study, report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = str(tmp_path / "tiny.yaml"), str(tmp_path / "new")
    assert main(["study", file, "--folder", folder, "--import", str(report), "--list"]) == 0
    assert "4 done" in " ".join(capsys.readouterr().out.split())
    assert main(["study", file, "--folder", folder, "--import", str(tmp_path)]) == 2
    assert "is not the report of a study: it has no runs.csv" in capsys.readouterr().err


def test_the_recipes_stand_a_variant_a_line(report: Path) -> None:
    text = (report / "study.json").read_text()
    assert json.loads(text)["variants"]["fast"]["model"]["lr"] == 0.1
    assert len(text.splitlines()) == 8
