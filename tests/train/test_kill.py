"""Runs that are killed and resumed: they end with every bit of a run that was not."""

import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dynaconv.train.config import TrainConfig
from dynaconv.train.resume_state import RUN_KEY
from dynaconv.train.run import fit, resume
from tests.train.helpers import When, send

STEPS_AN_EPOCH = 6
RANDOM_KILLS = 20
# Everything that draws random numbers or carries something from step to step.
CONFIG = TrainConfig(
    seed=5,
    data={
        "name": "digits",
        "batch_size": 16,
        "train_limit": 16 * STEPS_AN_EPOCH,
        "num_workers": 0,
        "augment": {"class_path": "Small", "init_args": {"padding": 2, "flip": True, "erase_prob": 0.5}},
    },
    model={
        "name": "dyconv_mobilenetv2_035",
        "model_options": {"drop_rate": 0.2},
        "lr": 0.01,
        "schedule": {"warmup_epochs": 0.5},
        "mix": {
            "class_path": "MixupOrCutMix",
            "init_args": {"mixup_alpha": 0.4, "ramp_epochs": 2},
        },
        "ema_decay": 0.9,
        "temperature": {"start": 20.0, "epochs": 1.5},
    },
    trainer={"max_epochs": 2, "accelerator": "cpu", "devices": 1, "logger": False},
    checkpoint={"every_steps": 2},
)


def run_and_kill(folder: Path, step: int) -> None:
    """Kill this process after an update, before that can be saved."""
    fit(CONFIG, out=folder, callbacks=[When("on_train_batch_end", step, partial(send, signal.SIGKILL))])


def _values(value: Any, name: str = "") -> dict[str, Any]:
    """Every tensor and number in a checkpoint, by where it is."""
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, (list, tuple)):
        parts = enumerate(value)  # type: ignore[assignment]
    else:
        return {name: value}
    return {key: found for part, inner in parts for key, found in _values(inner, f"{name}/{part}").items()}


def left_by(folder: Path) -> dict[str, Any]:
    """All that a run computed: weights, checkpoints, tables; its times and paths are left out."""
    found: dict[str, Any] = {}
    for file in sorted((folder / "checkpoints").iterdir()):
        name = file.stem
        checkpoint = torch.load(file, weights_only=True)
        del checkpoint["callbacks"]["EpochTable"]["seconds"], checkpoint["dynaconv"]
        assert {"state_dict", "optimizer_states", "lr_schedulers", "loops", RUN_KEY} <= checkpoint.keys()
        found |= _values(checkpoint, name)
    found |= _values(load_file(folder / "model.safetensors"), "model")
    with (folder / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            del row["seconds"], row["images_per_second"]
            found |= _values(row, f"metrics/{row['epoch']}")
    summary = json.loads((folder / "summary.json").read_text())
    for key in ("train_seconds", "finished", "command"):
        del summary[key]
    return found | _values(summary, "summary")


def unlike(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what is not the same, to the bit."""

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, torch.Tensor):
            return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
        return bool(a == b)

    return sorted(key for key in one.keys() | other.keys() if not (key in one and key in other)) + [
        key for key in one.keys() & other.keys() if not same(one[key], other[key])
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    fit(CONFIG, out=folder)
    return left_by(folder)


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process of its own; not on pipes, which orphaned loader processes would keep open."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        return subprocess.Popen([sys.executable, *arguments], stdout=file, stderr=file, env=environment)


# In the second epoch, a step after a checkpoint; in the first; a step after its end; before any checkpoint.
@pytest.mark.parametrize("step", [9, *(pytest.param(step, marks=pytest.mark.slow) for step in (4, 7, 1))])
def test_a_killed_run_ends_as_one_that_was_not(tmp_path: Path, whole: dict[str, Any], step: int) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    program = (
        "import torch; from pathlib import Path; from tests.train.test_kill import run_and_kill; "
        f"torch.set_num_threads(1); run_and_kill(Path({str(folder)!r}), {step})"
    )
    assert start(["-c", program], log).wait(300) == -signal.SIGKILL, log.read_text()
    assert (folder / "checkpoints" / "last.ckpt").is_file() == (step > 2)
    torch.rand(5)
    resume(folder)
    assert unlike(left_by(folder), whole) == []


def wait_for_writes(process: subprocess.Popen[bytes], file: Path, number: int) -> None:
    """Return when a file was written that many times, or the process has ended."""
    seen: set[int] = set()
    while len(seen) < number and process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            seen.add(file.stat().st_mtime_ns)
        time.sleep(0.002)


def wait_for_leftover(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Return while a checkpoint is being written, or when the process has ended."""
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            if any(entry.name.endswith(".tmp") for entry in entries):
                return


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_as_one_that_was_not(tmp_path: Path, whole: dict[str, Any]) -> None:
    recipe, log = tmp_path / "recipe.yaml", tmp_path / "log"
    # Saved after every step; every second run is killed while one is written.
    config = CONFIG.with_changes(checkpoint__every_steps=1, data__num_workers=1)
    recipe.write_text(json.dumps(config.to_dict()))
    command = ["-m", "dynaconv", "train"]
    moments = random.Random(0)
    stood: list[int] = []
    leftovers = 0
    for number in range(60):
        folder = tmp_path / str(number)
        process = start([*command, "--config", str(recipe), "--out", str(folder)], log)
        wait_for_writes(process, folder / "config.yaml", 1)
        last = folder / "checkpoints" / "last.ckpt"
        wait_for_writes(process, last, moments.randrange(2 * STEPS_AN_EPOCH))
        if number % 2:
            wait_for_leftover(process, last.parent)
        else:
            time.sleep(moments.uniform(0, 0.5))
        process.kill()
        if process.wait(60) == -signal.SIGKILL:
            stood.append(torch.load(last, weights_only=True)["global_step"] if last.is_file() else 0)
            leftovers += any(folder.rglob(".*.tmp"))
            assert start([*command, "--resume", str(folder)], log).wait(300) == 0, log.read_text()
        assert unlike(left_by(folder), whole) == [], number
        assert not any(folder.rglob(".*.tmp"))
        if len(stood) == RANDOM_KILLS:
            break
    print(f"{len(stood)} of {number + 1} killed, {leftovers} in a write; their checkpoints' steps: {sorted(stood)}")
    assert len(stood) == RANDOM_KILLS
    assert leftovers >= RANDOM_KILLS // 4
