"""Two processes do what one does with the batch of both, under DDP and FSDP2."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dynaconv.train.checkpoint import load_trained
from dynaconv.train.config import TrainConfig
from tests.train.distributed_run import run_case

ROOT = Path(__file__).parents[2]
# Sums over two processes are rounded in another order; every step of training magnifies that. The sixth step differs by
# 2.5e-4 on an x86 processor with AVX-512 and bfloat16, and by less than 1e-4 on others.
TOLERANCE = 5e-4
KINDS = ("fixed", "sync", "cut")


pytestmark = pytest.mark.usefixtures("own_environment")


def config(batch_size: int, lr: float, **trainer: Any) -> TrainConfig:
    """Two epochs of three steps; the network has batch norms of its own, of torch and in the latent space."""
    return TrainConfig(
        seed=3,
        data={"name": "digits", "batch_size": batch_size, "train_limit": 96, "image_size": 16, "augment": "Off"},
        model={
            "name": "dcd_resnet10",
            "lr": lr,
            "schedule": {"warmup_epochs": 0.5},
            "model_options": {"stem_stride": 1, "family_options": {"norm": "batch"}},
        },
        trainer={"max_epochs": 2, "accelerator": "cpu", "logger": False, **trainer},
    )


def case(kind: str, strategy: str | None) -> dict[str, Any]:
    """One case: batch norms with fixed statistics, synchronised ones, or these with a power cut and a resumed run."""
    alone = strategy is None
    options = {"devices": 1} if alone else {"devices": 2, "strategy": strategy, "sync_batchnorm": kind != "fixed"}
    return {
        "name": f"{strategy or 'one'}-{kind}",
        "fixed_norms": kind == "fixed",
        "cut": kind == "cut" and not alone,
        # With fixed norms the network learns slowly.
        "config": config(32 if alone else 16, lr=0.2 if kind == "fixed" else 0.05, **options).to_dict(),
    }


def torchrun(folder: Path, *arguments: str, processes: int = 2, timeout: float = 400) -> None:
    """Run a script in several processes; the whole output of each is kept, and shown where one fails."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["--log-dir", str(folder / "logs"), "--redirects", "3", *arguments]
    variables = {k: v for k, v in os.environ.items() if not k.startswith("DYNACONV")}
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment = {**variables, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with (folder / "torchrun.log").open("w") as log:
        done = subprocess.run(
            command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT, timeout=timeout, check=False
        )
    if done.returncode:
        logs = [folder / "torchrun.log", *sorted(path for path in (folder / "logs").rglob("*.log"))]
        text = "\n".join(f"--- {path.relative_to(folder)}\n{path.read_text()}" for path in logs)
        pytest.fail(f"torchrun ended with {done.returncode}\n{text}")


def run_cases(folder: Path, cases: list[dict[str, Any]]) -> list[dict[str, list[float]]]:
    """Run cases in two processes and return each one's loss curves."""
    (folder / "cases.json").write_text(json.dumps(cases))
    torchrun(folder, str(ROOT / "tests/train/distributed_run.py"), str(folder / "cases.json"))
    return [json.loads((folder / f"curves-{rank}.json").read_text()) for rank in range(2)]


def check(folder: Path, names: list[tuple[str, str]]) -> None:
    """Compare runs in two processes with the run of one."""
    curves = run_cases(folder, [case(kind, strategy) for strategy, kind in names])
    assert curves[0] == curves[1]
    alone = {
        kind: run_case(case(kind, None), folder) for kind in {"fixed" if k == "fixed" else "sync" for _, k in names}
    }
    for strategy, kind in names:
        name, reference = f"{strategy}-{kind}", "fixed" if kind == "fixed" else "sync"
        assert curves[0][name] == pytest.approx(alone[reference], abs=TOLERANCE), name
        assert abs(curves[0][name][0] - curves[0][name][-1]) > 10 * TOLERANCE
        _check_folder(folder / name, folder / f"one-{reference}")


def _check_folder(folder: Path, reference: Path) -> None:
    """What two processes left is what one leaves: the same files, table, whole weights and test result."""
    left, wanted = ({p.relative_to(f) for f in [base] for p in f.rglob("*")} for base in (folder, reference))
    assert left == wanted
    tables = [list(csv.DictReader((base / "metrics.csv").read_text().splitlines())) for base in (folder, reference)]
    for row, other in zip(*tables, strict=True):
        for column in ("epoch", "step", "lr", "train_loss", "train_acc", "val_loss", "val_acc"):
            assert float(row[column]) == pytest.approx(float(other[column]), abs=1e-3), column
    model, alone = (load_trained(base)[0].state_dict() for base in (folder, reference))
    for key, value in alone.items():
        torch.testing.assert_close(model[key], value, rtol=1e-3, atol=1e-3, msg=lambda text, key=key: f"{key}: {text}")
    result, other = (json.loads((base / "summary.json").read_text()) for base in (folder, reference))
    assert (result["processes"], result["images_per_update"]) == (2, 32)
    assert result["test_accuracy"] == pytest.approx(other["test_accuracy"], abs=0.01)
    assert result["test_loss"] == pytest.approx(other["test_loss"], rel=0.01)


def test_two_processes_equal_one_with_synchronised_norms_and_after_a_power_cut(tmp_path: Path) -> None:
    check(tmp_path, [("ddp", "sync"), ("fsdp2", "cut")])


@pytest.mark.slow
def test_every_strategy_equals_one_process(tmp_path: Path) -> None:
    check(tmp_path, [(strategy, kind) for strategy in ("ddp", "fsdp2") for kind in KINDS])


def test_synchronised_norms_equal_plain_ones_on_the_whole_batch(tmp_path: Path) -> None:
    torchrun(tmp_path, str(ROOT / "tests/train/distributed_norms.py"), str(tmp_path))
    assert (tmp_path / "done-0").exists()
    assert (tmp_path / "done-1").exists()


@pytest.mark.slow
def test_the_moving_average_of_the_weights_is_sharded_too(tmp_path: Path) -> None:
    wanted = case("sync", "fsdp2")
    wanted["config"]["model"]["ema_decay"] = 0.5
    alone = {**case("sync", None), "name": "one-ema"}
    alone["config"]["model"]["ema_decay"] = 0.5
    run_cases(tmp_path, [wanted])
    run_case(alone, tmp_path)
    models = [load_trained(tmp_path / name)[0].state_dict() for name in ("fsdp2-sync", "one-ema")]
    for key, value in models[1].items():
        torch.testing.assert_close(models[0][key], value, rtol=1e-3, atol=1e-3)
