"""``dynaconv study`` from the command line."""

from pathlib import Path
from typing import Any

import pytest

from dynaconv.cli import main
from tests.study.helpers import write_study

pytestmark = pytest.mark.usefixtures("own_environment")


def words(capsys: pytest.CaptureFixture[str], *argv: Any, code: int = 0) -> str:
    """Run a command and return what it printed, white space made single."""
    assert main(["study", *map(str, argv)]) == code
    captured = capsys.readouterr()
    return " ".join((captured.out if code == 0 else captured.err).split())


def test_runs_are_listed_before_and_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, folder = write_study(tmp_path / "tiny.yaml"), ("--folder", tmp_path / "f")
    assert "4 open" in words(capsys, study, *folder, "--list")
    assert not (tmp_path / "f").exists()
    assert "slow, seed 1: test accuracy" in words(capsys, study, *folder, "--only", "slow", "--seeds", 1)
    assert "1 done" in words(capsys, study, *folder, "--list", "--only", "slow", "--seeds", 1)


def test_a_failed_run_is_exit_code_1_after_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    variants = {"none": {"change": {"model.name": "resnet_not_there"}}, "slow": {}}
    study = write_study(tmp_path / "tiny.yaml", variants=variants, seeds=1)
    assert "1 of 2 runs failed" in words(capsys, study, "--folder", tmp_path / "f", code=1)
    assert (tmp_path / "f" / "runs" / "slow" / "seed-0" / "summary.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "name a study: "),
        (("mobilenetv2", "--jobs", "0"), "--jobs is at least 1; got 0"),
        (("mobilenetv2", "--only", "ddc"), "has no such variant; the nearest are 'dcd'"),
        (("mobilenetv2", "--seeds", "7"), "--seeds 7: the study mobilenetv2 has the seeds 0, 1, 2, 3 and 4."),
        (("mobilenetv", "--list"), "unknown study 'mobilenetv'"),
    ],
)
def test_a_mistake_is_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str
) -> None:
    assert sentence in words(capsys, *arguments, code=2)


@pytest.mark.slow
def test_two_processes_share_a_study(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    study = write_study(tmp_path / "tiny.yaml")
    assert main(["study", str(study), "--folder", str(tmp_path / "f"), "--jobs", "2"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert sorted(line.partition(":")[0] for line in lines) == [
        "fast, seed 0",
        "fast, seed 1",
        "slow, seed 0",
        "slow, seed 1",
    ]
