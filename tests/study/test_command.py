"""``dynaconv study`` from the command line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dynaconv.cli import main
from dynaconv.study.folder import StudyFolder
from dynaconv.study.load import load_study
from dynaconv.study.runner import states
from dynaconv.train.module import ClassificationModule
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
        (("mobilenetv2", "--jobs", "0"), "--jobs must be an integer from 1 to 1024; got '0'"),
        (("mobilenetv2", "--only", "ddc"), "has no such variant; the nearest are 'dcd'"),
        (("mobilenetv2", "--seeds", "7"), "--seeds 7: the study mobilenetv2 has the seeds 0, 1, 2, 3 and 4."),
        (("mobilenetv", "--list"), "unknown study 'mobilenetv'"),
        (("mobilenetv2", "--list", "--folder", __file__), "is a file; --folder names the folder of the runs."),
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


def test_ctrl_c_saves_the_run_at_hand_and_ends_the_study(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, folder = write_study(tmp_path / "tiny.yaml"), tmp_path / "f"
    training_step = ClassificationModule.training_step

    def interrupted(self: Any, batch: Any, batch_index: int) -> Any:
        if self.global_step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return training_step(self, batch, batch_index)

    monkeypatch.setattr(ClassificationModule, "training_step", interrupted)
    assert main(["study", str(study), "--folder", str(folder)]) == 130
    said = capfd.readouterr().err.strip().splitlines()
    assert said[-1] == "dynaconv: stopped by SIGINT after step 2; the same command goes on from there"
    assert [*states(load_study(study), StudyFolder(folder)).values()] == ["interrupted", "open", "open", "open"]


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("group", [False, True], ids=["process", "group"])
def test_ctrl_c_saves_the_runs_of_every_process(tmp_path: Path, group: bool, times: int) -> None:
    change = {"trainer.max_epochs": 400}
    study, folder, log = write_study(tmp_path / "tiny.yaml", change=change), tmp_path / "f", tmp_path / "log"
    command = [sys.executable, "-m", "dynaconv", "study", str(study), "--folder", str(folder), "--jobs", "2"]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    while len(list(folder.glob("runs/*/*/checkpoints/last.ckpt"))) < 2:
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    for _ in range(times):
        (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
        time.sleep(0.3)
    assert process.wait(60) == 130, log.read_text()
    said = [line for line in log.read_text().splitlines() if line]
    assert len(said) == 2, said
    assert said[0].startswith("dynaconv: the run stops once it is saved")
    if times == 1:
        assert said[1] == "dynaconv: stopped by SIGINT; the same command goes on from there"
    # Not "running": nobody is left to hold a run.
    assert sorted(states(load_study(study), StudyFolder(folder)).values()) == ["interrupted"] * 2 + ["open"] * 2
