"""Whole runs: what they leave, resuming, and what happens when they go wrong."""

import csv
import io
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from rich.console import Console
from safetensors import safe_open

from dynaconv.errors import CheckpointError, DataError, DynaconvError, RunError, TrainingDivergedError
from dynaconv.files import write_csv
from dynaconv.train.callbacks import COLUMNS, EpochTable
from dynaconv.train.checkpoint import load_trained
from dynaconv.train.config import foreign_options, resolve
from dynaconv.train.folders import RUN_VARIABLE
from dynaconv.train.progress import RunProgress
from dynaconv.train.run import RunResult, fit, resume
from tests.messages import refuses, spelled
from tests.train.helpers import StopAfter, tiny_config, write_folder

pytestmark = pytest.mark.usefixtures("own_environment")


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def without_times(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(RUN_VARIABLE, raising=False)
        return fit(tiny_config(), out=tmp_path_factory.mktemp("run") / "finished", command="dynaconv train ...")


def test_a_run_leaves_all_its_files(finished: RunResult) -> None:
    found = {str(path.relative_to(finished.directory)) for path in finished.directory.rglob("*") if path.is_file()}
    assert found == {
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "config.yaml",
        "curves.png",
        "metrics.csv",
        "model.safetensors",
        "summary.json",
    }
    assert (finished.directory / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_has_one_row_an_epoch(finished: RunResult) -> None:
    rows = rows_of(finished.directory)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [row["step"] for row in rows] == ["5", "10"]
    assert all(float(row[name]) > 0 for row in rows for name in ("train_loss", "val_loss", "seconds", "val_acc5"))


def test_the_summary_tells_what_was_measured(finished: RunResult) -> None:
    summary = json.loads((finished.directory / "summary.json").read_text())
    assert summary == finished.summary
    assert summary["params"] == sum(p.numel() for p in finished.model.parameters())
    assert summary["test_images"] == 450
    assert (summary["seed"], summary["command"], summary["data"]) == (3, "dynaconv train ...", "digits")
    assert 0 <= summary["test_accuracy"] <= summary["test_top5"] <= 1
    assert summary["val_accuracy"] == max(float(row["val_acc"]) for row in rows_of(finished.directory))


def test_the_weights_on_disk_are_those_that_were_tested(finished: RunResult) -> None:
    model, metadata = load_trained(finished.directory)
    for key, value in finished.model.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=0, atol=0)
    assert metadata["metrics"]["test_accuracy"] == finished.summary["test_accuracy"]
    with safe_open(finished.directory / "model.safetensors", framework="pt") as opened:
        assert json.loads(opened.metadata()["dynaconv"])["class_names"] == [str(digit) for digit in range(10)]


def test_the_same_seed_gives_the_same_weights(finished: RunResult, tmp_path: Path) -> None:
    again = fit(tiny_config(), out=tmp_path / "again")
    assert without_times(rows_of(again.directory)) == without_times(rows_of(finished.directory))
    other = fit(tiny_config(seed=4), out=tmp_path / "other")
    assert without_times(rows_of(other.directory)) != without_times(rows_of(finished.directory))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "model__mix": {"class_path": "Mixup", "init_args": {"ramp_epochs": 3}},
            "model__ema_decay": 0.9,
            "data__num_workers": 1,
        },
        {
            "model__optimizer": "AdamW",
            "model__schedule": {"class_path": "Step", "init_args": {"step_epochs": 1}},
            "data__val_fraction": 0,
        },
    ],
    ids=["plain", "mixup-ema-worker", "adamw-step-no-validation"],
)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = tiny_config(trainer__max_epochs=3, **changes)
    whole = fit(config, out=tmp_path / "whole")
    with pytest.raises(OSError, match="power cut"):
        fit(config, out=tmp_path / "cut", callbacks=[StopAfter(2, OSError("power cut"))])
    assert len(rows_of(tmp_path / "cut")) == 2
    torch.rand(5)
    rest = resume(tmp_path / "cut")
    assert without_times(rows_of(rest.directory)) == without_times(rows_of(whole.directory))
    for key, value in whole.model.state_dict().items():
        torch.testing.assert_close(rest.model.state_dict()[key], value, rtol=0, atol=0)
    assert rest.summary["test_loss"] == whole.summary["test_loss"]


def test_resuming_needs_an_unfinished_run(finished: RunResult, tmp_path: Path) -> None:
    with refuses(RunError):
        resume(finished.directory)
    with refuses(RunError, "config.yaml"):
        resume(tmp_path)


def test_a_run_never_writes_over_another(finished: RunResult) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.directory.rglob("*")}
    with refuses(RunError, "finished-2"):
        fit(tiny_config(), out=finished.directory)
    assert before == {path: path.stat().st_mtime_ns for path in finished.directory.rglob("*")}


def test_runs_without_a_name_get_different_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dynaconv.train.folders import claim_folder

    monkeypatch.chdir(tmp_path)
    folders = {claim_folder(None, data="a/b c", model="m") for _ in range(3)}
    assert len(folders) == 3
    assert all(folder.parent == Path("runs") and folder.name.startswith("b_c-m-") for folder in folders)


def test_the_further_processes_of_a_run_share_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dynaconv.train.folders import claim_folder

    first = claim_folder(tmp_path / "run", data="d", model="m")
    (first / "config.yaml").touch()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert claim_folder(None, data="d", model="m") == first
    monkeypatch.delenv(RUN_VARIABLE)
    with refuses(RunError, "--out"):
        claim_folder(None, data="d", model="m")


def test_a_mistake_in_the_options_leaves_no_folder(tmp_path: Path) -> None:
    for changes in (
        {"trainer__accelerator": "nonsense"},
        {"model__name": "nonsense"},
        {"seed": -1},
        {"trainer__fast_dev_run": True},
    ):
        with pytest.raises(RunError):
            fit(tiny_config(**changes), out=tmp_path / "run")
        assert not (tmp_path / "run").exists()
    for epochs in (0, -1):
        with refuses(RunError, "--epochs"):
            fit(tiny_config(trainer__max_epochs=epochs), out=tmp_path / "run")
    with refuses(RunError):
        fit(tiny_config(), out="")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        {"model__name": "resnet19"},
        {"model__weights": "nowhere"},
        {"model__branch_lr": -1.0},
        {"model__ema_decay": 1.0},
        {"data__channels": 2},
        {"data__epoch_size": 2**63},
        {"data__classes": 10**9},
        {"model__weights": "x", "model__pretrained": True},
    ],
    ids=spelled,
)
def test_a_mistake_is_found_before_the_data_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("drawing or downloading them can take minutes")

    monkeypatch.setattr("dynaconv.train.data.module.load_source", load)
    with refuses(DynaconvError):
        fit(tiny_config(**changes), out=tmp_path / "run")


def test_a_run_that_fails_before_its_first_checkpoint_leaves_no_folder(tmp_path: Path) -> None:
    for error in (OSError("power cut"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            fit(tiny_config(trainer__logger=True), out=tmp_path / "run", callbacks=[StopAfter(0, error)])
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes", [{"data__batch_size": 1}, {"data__train_limit": 1, "data__val_fraction": 0}], ids=spelled
)
def test_mixing_the_images_of_steps_of_one_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with refuses(RunError, "data.batch_size"):
        fit(tiny_config(model__mix="CutMix", **changes), out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["vgg11", "vit_tiny_patch16_224"])
def test_a_network_for_larger_images_is_refused(tmp_path: Path, name: str) -> None:
    with refuses(RunError, name, "--data.image_size"):
        fit(tiny_config(model__name=name), out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("batch", "left_out"), [(33, 28), (32, 0), (161, 0)])
def test_images_that_no_step_of_an_epoch_sees_are_told(tmp_path: Path, batch: int, left_out: int) -> None:
    notes: list[str] = []
    config = tiny_config(data__batch_size=batch, model__mix="Mixup", trainer__max_epochs=1)
    fit(config, out=tmp_path / "run", on_start=lambda _, facts: notes.extend(facts["notes"]))
    assert [note.partition(" training images are left out")[0] for note in notes] == [str(left_out)] * bool(left_out)


def test_a_run_without_a_length_has_a_default_one(tmp_path: Path) -> None:
    for changes, epochs in (({}, 30), ({"trainer__max_steps": 7}, None), ({"trainer__max_epochs": 4}, 4)):
        resolved = resolve(tiny_config(**{"trainer__max_epochs": None, **changes}))
        assert resolved.trainer.max_epochs == epochs


def test_the_length_may_be_counted_in_steps(tmp_path: Path) -> None:
    stream = io.StringIO()
    config = tiny_config(trainer__max_epochs=None, trainer__max_steps=7)
    result = fit(config, out=tmp_path / "run", callbacks=[RunProgress(Console(file=stream))])
    assert [row["step"] for row in rows_of(tmp_path / "run")] == ["5", "7"]
    assert "epoch 2/2" in stream.getvalue()
    assert result.summary["epochs"] == 2


def test_without_a_best_checkpoint_the_last_is_tested(tmp_path: Path) -> None:
    result = fit(tiny_config(trainer__max_epochs=1, trainer__limit_val_batches=0), out=tmp_path / "run")
    assert result.summary["weights"]["checkpoint"] == "last.ckpt"
    assert rows_of(tmp_path / "run")[0]["val_acc"] == ""


def test_an_epoch_without_validation_has_no_values_and_the_last_is_always_validated(tmp_path: Path) -> None:
    for epochs, validated in ((3, [False, True, True]), (4, [False, True, False, True])):
        config = tiny_config(trainer__max_epochs=epochs, trainer__check_val_every_n_epoch=2)
        fit(config, out=tmp_path / str(epochs))
        assert [row["val_acc"] != "" for row in rows_of(tmp_path / str(epochs))] == validated


def test_a_broken_last_checkpoint_names_the_best(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="power cut"):
        fit(tiny_config(), out=tmp_path / "run", callbacks=[StopAfter(1, OSError("power cut"))])
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_bytes(b"broken")
    with refuses(CheckpointError, "last.ckpt"):
        resume(tmp_path / "run")
    shutil.copy(tmp_path / "run" / "checkpoints" / "best.ckpt", tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert resume(tmp_path / "run").summary["epochs"] == 2


def test_a_folder_is_recorded_with_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_folder(tmp_path / "images", ("train", "val"))
    data = {"name": "images", "image_size": 32, "batch_size": 4, "num_workers": 0, "val_fraction": 0}
    facts: list[dict[str, Any]] = []
    broken = folder / "val" / "dark" / "0.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"broken")
    config = tiny_config(data=data, trainer__max_epochs=1)
    with refuses(DataError, "--resume"):
        fit(config, out="run", on_start=lambda _, given: facts.append(given))
    assert facts[0]["notes"] == [
        f"2 classes (dark, light), 12 training and 12 test images. {folder} has no test/: val/ is the test set."
    ]
    folder.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    with refuses(RunError, str(folder)):
        resume(tmp_path / "run")
    (tmp_path / "moved").rename(folder)
    broken.write_bytes(whole)
    summary = resume(tmp_path / "run").summary
    assert summary["data"] == load_trained(tmp_path / "run")[1]["data"]["name"] == str(folder)
    assert summary["train_seconds"] > 0


def test_a_recipes_options_stay_with_our_models() -> None:
    recipe = tiny_config(model__name="dcd_mobilenetv2_035", model__model_options={"stem_stride": 1})
    for name, kept in (("dcd_resnet18", {"stem_stride": 1}), ("resnet18", None)):
        assert resolve(recipe, [f"--model.name={name}"]).model.model_options == kept
        assert bool(foreign_options(recipe, name)) == (kept is None)
    own = ["--model.name=resnet18", '--model.model_options={"drop_rate": 0.1}']
    assert resolve(recipe, own).model.model_options == {"drop_rate": 0.1}


class BreakWeights(Callback):
    """Makes the loss NaN from an epoch on."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            with torch.no_grad():
                next(pl_module.model.parameters()).fill_(float("nan"))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    with refuses(TrainingDivergedError):
        fit(tiny_config(trainer__max_epochs=3), out=tmp_path / "run", callbacks=[BreakWeights()])
    for name in ("best", "last"):
        model, _ = load_trained(tmp_path / "run" / "checkpoints" / f"{name}.ckpt")
        assert all(value.isfinite().all() for value in model.state_dict().values())
    assert load_trained(tmp_path / "run")[1]["model"] == "test_resnet"
    assert not (tmp_path / "run" / "summary.json").exists()


def test_an_interrupt_is_passed_on_and_can_be_resumed(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_config(), out=tmp_path / "run", callbacks=[StopAfter(1, KeyboardInterrupt())])
    assert signal.getsignal(signal.SIGINT) is handler
    assert resume(tmp_path / "run").summary["epochs"] == 2


def test_without_validation_the_last_weights_are_tested(tmp_path: Path) -> None:
    result = fit(tiny_config(data__val_fraction=0, trainer__max_epochs=1), out=tmp_path / "run")
    assert result.summary["weights"] == {"checkpoint": "last.ckpt", "epoch": 1, "ema": False}
    assert result.summary["val_accuracy"] is None
    assert not (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()


def test_the_moving_average_is_what_is_kept(tmp_path: Path) -> None:
    result = fit(tiny_config(model__ema_decay=0.5, trainer__max_epochs=1), out=tmp_path / "run")
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert result.summary["weights"]["ema"]
    key, kept = next(iter(result.model.state_dict().items()))
    torch.testing.assert_close(kept, checkpoint["state_dict"][f"ema.module.{key}"], rtol=0, atol=0)
    assert not torch.equal(kept, checkpoint["state_dict"][f"model.{key}"])


@pytest.mark.parametrize("logger", [True, "lightning.pytorch.loggers.WandbLogger"])
def test_a_logger_whose_package_is_missing_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: Any
) -> None:
    for name in ("tensorboard._TENSORBOARD_AVAILABLE", "tensorboard._TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(f"lightning.fabric.loggers.{name}", False)
    with refuses(RunError, "trainer.logger"):
        fit(tiny_config(trainer__logger=logger), out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


class Score(Callback):
    """Replaces the validation accuracy and loss of each epoch in the metrics table."""

    def __init__(self, *scores: tuple[float, float]) -> None:
        self.scores = scores

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        table = next(callback for callback in trainer.callbacks if isinstance(callback, EpochTable))
        table.rows[-1].update(zip(("val_acc", "val_loss"), self.scores[trainer.current_epoch], strict=True))
        write_csv(table.path, COLUMNS, table.rows)


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([(0.5, 1.0), (0.5, 0.9), (0.4, 0.1)], 2),
        ([(0.5, 0.9), (0.5, 1.0), (0.5, 0.9)], 3),
        ([(0.5, 0.9), (0.4, 0.8), (0.5, 1.0)], 1),
        ([(0.0, 1.0), (0.0, 1.0), (0.0, 2.0)], 2),
    ],
    ids=["lower loss", "same loss", "lower loss before", "no hits"],
)
def test_of_equally_accurate_epochs_the_one_of_the_lowest_loss_is_kept(
    tmp_path: Path, scores: list[tuple[float, float]], best: int
) -> None:
    config = tiny_config(trainer__max_epochs=3)
    with pytest.raises(OSError, match="power cut"):
        fit(config, out=tmp_path / "run", callbacks=[Score(*scores), StopAfter(2, OSError("power cut"))])
    result = resume(tmp_path / "run", callbacks=[Score(*scores)])
    assert result.summary["weights"]["epoch"] == best
    assert result.summary["val_accuracy"] == scores[best - 1][0]


def test_precision_clipping_accumulation_and_tensorboard_pass_through(tmp_path: Path) -> None:
    config = tiny_config(
        trainer={
            "max_epochs": 1,
            "accelerator": "cpu",
            "devices": 1,
            "precision": "64-true",
            "gradient_clip_val": 1.0,
            "accumulate_grad_batches": 2,
            "log_every_n_steps": 1,
        }
    )
    result = fit(config, out=tmp_path / "run")
    assert rows_of(result.directory)[0]["step"] == "3"
    assert next(result.model.parameters()).dtype == torch.float64
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))
