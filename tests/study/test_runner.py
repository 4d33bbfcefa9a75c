"""Runs of a study: each done once, whoever does it; what stops one does not stop the others."""

import csv
import multiprocessing
import signal
import time
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from dynaconv.errors import DataError, RunError
from dynaconv.study.definition import Study
from dynaconv.study.folder import RunKey, StudyFolder, differences
from dynaconv.study.load import load_study
from dynaconv.study.runner import RunOptions, run_study, states
from dynaconv.study.trace import read_trace
from dynaconv.train.stopping import RunStopped
from tests.messages import refuses
from tests.study.helpers import TINY, write_study
from tests.train.helpers import StopAfter, When, send

pytestmark = pytest.mark.usefixtures("own_environment")
STOPS = ("SIGTERM", "SIGINT", "SIGHUP")


def quiet(line: str) -> None:
    pass


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return load_study(write_study(tmp_path / "tiny.yaml"))


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "runs-of-tiny")


def test_every_run_is_done_once(study: Study, folder: StudyFolder) -> None:
    lines: list[str] = []
    run_study(study, folder, RunOptions(only=("fast",)), say=lines.append)
    assert [line.partition(":")[0] for line in lines] == ["fast, seed 0", "fast, seed 1"]
    summary = folder.summary(RunKey("fast", 1))
    assert summary["seed"] == 1
    assert 0 <= summary["test_accuracy"] <= 1
    run_study(study, folder, RunOptions(), say=lines.append)
    assert [line.partition(":")[0] for line in lines[2:]] == ["slow, seed 0", "slow, seed 1"]
    assert set(states(study, folder).values()) == {"done"}
    before = len(lines)
    run_study(study, folder, RunOptions(), say=lines.append)
    assert len(lines) == before


def test_a_run_leaves_its_loss_and_no_weights(study: Study, folder: StudyFolder) -> None:
    key = RunKey("slow", 0)
    run_study(study, folder, RunOptions(only=("slow",), seeds=(0,)), say=quiet)
    left = {str(path.relative_to(folder.run_folder(key))) for path in folder.run_folder(key).rglob("*")}
    assert left == {"config.yaml", "curves.png", "metrics.csv", "summary.json", "trace.csv"}
    assert read_trace(folder.run_folder(key) / "trace.csv") == []  # three steps, a row is five
    run_study(study, folder, RunOptions(only=("slow",), seeds=(1,), keep_checkpoints=True), say=quiet)
    kept = folder.run_folder(RunKey("slow", 1))
    assert (kept / "checkpoints" / "last.ckpt").is_file()
    assert (kept / "model.safetensors").is_file()


def test_the_trace_is_the_mean_loss_of_five_steps(tmp_path: Path, folder: StudyFolder) -> None:
    change = {"data.train_limit": 320, "trainer.max_epochs": 2}
    study = load_study(write_study(tmp_path / "s.yaml", change=change, seeds=1))
    run_study(study, folder, RunOptions(only=("slow",)), say=quiet)
    directory = folder.run_folder(RunKey("slow", 0))
    trace = read_trace(directory / "trace.csv")
    assert [row["step"] for row in trace] == [5, 10, 15, 20]
    with (directory / "metrics.csv").open() as file:
        epochs = [float(row["train_loss"]) for row in csv.DictReader(file)]
    # Every batch is whole, so the mean over an epoch is the mean of its rows.
    means = [(trace[0]["loss"] + trace[1]["loss"]) / 2, (trace[2]["loss"] + trace[3]["loss"]) / 2]
    assert means == pytest.approx(epochs, rel=1e-4)


@pytest.mark.parametrize(
    ("stop", "error"),
    [
        (StopAfter(1, KeyboardInterrupt()), KeyboardInterrupt),
        # A row of the trace is five steps, so each of these stops between two rows.
        *((When("on_train_batch_end", 12, partial(send, signal.Signals[name])), RunStopped) for name in STOPS),
    ],
    ids=["an error", *STOPS],
)
def test_who_stops_a_run_stops_the_study_which_goes_on_as_if_nothing_had_been(
    tmp_path: Path, stop: Callback, error: type[BaseException]
) -> None:
    change = {"data.train_limit": 320, "trainer.max_epochs": 2}
    study = load_study(write_study(tmp_path / "s.yaml", change=change, seeds=1))
    whole, broken = StudyFolder(tmp_path / "whole"), StudyFolder(tmp_path / "broken")
    lines: list[str] = []
    with pytest.raises(error):
        run_study(study, broken, RunOptions(), say=lines.append, callbacks=[stop])
    assert lines == []
    assert {key.variant: state for key, state in states(study, broken).items()} == {
        "slow": "interrupted",
        "fast": "open",
    }
    key, wanted = RunKey("slow", 0), RunOptions(only=("slow",))
    for folder in (whole, broken):
        run_study(study, folder, wanted, say=quiet)
    assert broken.summary(key)["test_loss"] == whole.summary(key)["test_loss"]
    traces = [read_trace(place.run_folder(key) / "trace.csv") for place in (whole, broken)]
    assert traces[0] == traces[1]


def test_a_run_that_ended_before_its_first_checkpoint_starts_again(study: Study, folder: StudyFolder) -> None:
    key = RunKey("slow", 0)
    folder.claim(study)
    # What a process that is killed in its first epoch leaves.
    folder.run_folder(key).mkdir(parents=True)
    (folder.run_folder(key) / "config.yaml").write_text("seed: 0\n")
    (folder.run_folder(key) / "trace.csv").write_text("step,loss\n")
    assert folder.state(key) == "open"
    run_study(study, folder, RunOptions(only=("slow",), seeds=(0,)), say=quiet)
    assert folder.state(key) == "done"


def test_a_diverged_run_is_a_result(tmp_path: Path, folder: StudyFolder) -> None:
    variants = {"slow": {}, "wild": {"change": {"model.lr": 1e6}}}
    study = load_study(write_study(tmp_path / "s.yaml", variants=variants, seeds=1))
    lines: list[str] = []
    run_study(study, folder, RunOptions(), say=lines.append)
    assert {key.variant: state for key, state in states(study, folder).items()} == {"slow": "done", "wild": "diverged"}
    outcome = folder.outcome(RunKey("wild", 0))
    assert outcome is not None
    assert "loss became" in outcome["message"]
    run_study(study, folder, RunOptions(), say=lines.append)
    assert len(lines) == 2
    run_study(study, folder, RunOptions(retry=True), say=lines.append)
    assert len(lines) == 3
    assert lines[2].startswith("wild, seed 0: diverged")


def test_a_failed_run_is_recorded_and_the_next_one_starts(tmp_path: Path, folder: StudyFolder) -> None:
    variants = {"none": {"change": {"model.name": "resnet_that_is_not_there"}}, "slow": {}}
    study = load_study(write_study(tmp_path / "s.yaml", variants=variants, seeds=1))
    run_study(study, folder, RunOptions(), say=quiet)
    outcome = folder.outcome(RunKey("none", 0))
    assert outcome is not None
    assert outcome["state"] == "failed"
    assert "unknown model 'resnet_that_is_not_there'" in outcome["message"]
    assert folder.state(RunKey("slow", 0)) == "done"


def test_missing_data_stop_the_study_and_are_no_result(tmp_path: Path, folder: StudyFolder) -> None:
    change = {"data.name": "folder", "data.data_dir": str(tmp_path / "none")}
    study = load_study(write_study(tmp_path / "s.yaml", change=change, seeds=1))
    with refuses(DataError):
        run_study(study, folder, RunOptions(), say=quiet)
    assert set(states(study, folder).values()) == {"open"}


def test_each_run_has_the_threads_the_study_says(tmp_path: Path, folder: StudyFolder) -> None:
    study = load_study(write_study(tmp_path / "s.yaml", threads=1, seeds=1))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run_study(study, folder, RunOptions(only=("slow",)), say=quiet)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert folder.summary(RunKey("slow", 0))["threads"] == 1


def test_a_changed_recipe_over_runs_is_refused_key_by_key(tmp_path: Path, study: Study, folder: StudyFolder) -> None:
    run_study(study, folder, RunOptions(only=("fast",), seeds=(0,)), say=quiet)
    variants = TINY["variants"] | {"fast": {"change": {"model.lr": 0.2, "model.weight_decay": 0.5}}}
    changed = load_study(write_study(tmp_path / "tiny.yaml", variants=variants))
    with refuses(RunError, "model.lr", "model.weight_decay"):
        run_study(changed, folder, RunOptions(), say=quiet)
    # A variant without runs may change, and others may be added.
    variants = TINY["variants"] | {"slow": {"change": {"model.lr": 0.01}}, "new": {}}
    folder.claim(load_study(write_study(tmp_path / "tiny.yaml", variants=variants)))
    with refuses(RunError, "tiny"):
        folder.claim(load_study(write_study(tmp_path / "other.yaml")))


def test_a_folder_with_something_else_is_refused(tmp_path: Path, study: Study) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with refuses(RunError):
        StudyFolder(tmp_path / "full").claim(study)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["letter.txt"]


def test_differences_name_nested_keys() -> None:
    before = {"a": {"b": 1, "c": 2}, "d": 3}
    assert differences(before, before) == []
    assert differences(before, {"a": {"b": 1, "c": 4}, "e": 5}) == [
        "a.c was 2 and is 4",
        "d was 3 and is 'left out'",
        "e was 'left out' and is 5",
    ]


def _hold(path: Path, key: RunKey, held: Event) -> None:
    with StudyFolder(path).lock(key) as mine:
        assert mine
        held.set()
        time.sleep(60)


def test_a_run_belongs_to_one_process_and_is_free_once_that_is_killed(study: Study, folder: StudyFolder) -> None:
    key = RunKey("slow", 0)
    folder.claim(study)
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    other = context.Process(target=_hold, args=(folder.path, key, held))
    other.start()
    assert held.wait(30)
    assert folder.state(key) == "running"
    with folder.lock(key) as mine:
        assert not mine
    lines: list[str] = []
    run_study(study, folder, RunOptions(only=("slow",)), say=lines.append)
    assert [line.partition(":")[0] for line in lines] == ["slow, seed 1"]
    other.kill()
    other.join()
    assert folder.state(key) == "open"
    run_study(study, folder, RunOptions(only=("slow",)), say=lines.append)
    assert folder.state(key) == "done"
