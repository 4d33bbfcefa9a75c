"""Runs of two processes that lose one, or are asked to stop, and are resumed."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.train.helpers import tiny_config
from tests.train.test_kill import left_by, start, unlike

pytestmark = pytest.mark.slow
COMMAND = ["-m", "dynaconv", "train"]
# Dropout, mixup and the sums of the metrics differ between the processes.
CONFIG = tiny_config(
    model={
        "name": "test_resnet",
        "lr": 0.02,
        "mix": {"class_path": "Mixup", "init_args": {"alpha": 0.3}},
        "ema_decay": 0.9,
        "model_options": {"drop_rate": 0.3},
    },
    checkpoint={"every_steps": 1},
).with_changes(data__batch_size=8, trainer__devices=2, trainer__strategy="ddp")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(json.dumps(CONFIG.to_dict()))
    return path


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    log = folder / "log"
    assert start([*COMMAND, "--config", str(recipe), "--out", str(folder / "run")], log).wait(300) == 0, log.read_text()
    return left_by(folder / "run")


def _child(parent: int) -> int:
    """The second process of a run, which the first one started."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if int(fields[1]) == parent and b"dynaconv" in command:
                return int(entry.name)
    raise AssertionError(f"process {parent} has no child")


@pytest.mark.parametrize("what", ["lost", "SIGTERM", "SIGINT"])
def test_two_processes_go_on_as_if_nothing_had_been(
    recipe: Path, whole: dict[str, Any], tmp_path: Path, what: str
) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    process = start([*COMMAND, "--config", str(recipe), "--out", str(folder)], log)
    while not (folder / "checkpoints" / "last.ckpt").is_file():
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)
    if what == "lost":
        os.kill(_child(process.pid), signal.SIGKILL)
    else:
        process.send_signal(signal.Signals[what])
    code = process.wait(120)
    said = [line for line in log.read_text().splitlines() if line.startswith("dynaconv: ")]
    if what == "SIGINT":
        assert said.pop(0).startswith("dynaconv: the run stops once it is saved")
    if what == "lost":
        assert code == 2, log.read_text()
        assert said[0].startswith("dynaconv: another process of this run ended or cannot be reached any more")
    else:
        assert code == (130 if what == "SIGINT" else 0), log.read_text()
        assert said[0].startswith(f"dynaconv: stopped by {what} after step")
    assert len(said) == 1
    assert said[0].rstrip("`.").endswith(f"dynaconv train --resume {folder}")
    log = tmp_path / "log2"
    alone = start([*COMMAND, "--resume", str(folder), "--trainer.devices", "1"], log)
    assert alone.wait(300) == 2
    assert "2 processes x 8 images (16 an update)" in log.read_text()
    assert start([*COMMAND, "--resume", str(folder)], log).wait(300) == 0, log.read_text()
    assert unlike(left_by(folder), whole) == []
