"""What befalls long runs: signals, numbers that are not finite, corrupt images, full disks, changed data."""

import errno
import gc
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from dynaconv.errors import CheckpointError, DataError, RunError, TrainingDivergedError
from dynaconv.files import remove_leftovers, replacing
from dynaconv.train.checkpoint import load_trained
from dynaconv.train.data.image_file import open_image
from dynaconv.train.failures import explained
from dynaconv.train.resume_checks import check_batch
from dynaconv.train.run import fit, resume
from dynaconv.train.stopping import RunStopped
from tests.messages import refuses
from tests.train.helpers import When, failing, folder_config, send, tiny_config, write_folder
from tests.train.test_kill import left_by, unlike

pytestmark = pytest.mark.usefixtures("own_environment")


def after(step: int, do: Callable[[], object]) -> When:
    """Does something once, after an update."""
    return When("on_train_batch_end", step, do)


terminate = partial(send, signal.SIGTERM)


def test_a_run_that_was_never_saved_starts_again(tmp_path: Path) -> None:
    whole = fit(tiny_config(), out=tmp_path / "whole")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    shutil.copy(tmp_path / "whole" / "config.yaml", tmp_path / "run" / "config.yaml")
    (tmp_path / "run" / "checkpoints" / ".last.ckpt.77.tmp").write_bytes(b"half")
    notes: list[str] = []
    again = resume(tmp_path / "run", on_start=lambda _, facts: notes.extend(facts["notes"]))
    assert notes == ["The run was not saved before it ended: it starts from the beginning."]
    assert again.summary["test_loss"] == whole.summary["test_loss"]
    assert not list((tmp_path / "run").rglob("*.tmp"))


@pytest.mark.parametrize("kind", [EarlyStopping, ModelCheckpoint])
def test_a_metric_that_a_callback_monitors_but_nobody_logs_is_named(tmp_path: Path, kind: type[Callback]) -> None:
    config = tiny_config(trainer={"max_epochs": 1, "accelerator": "cpu", "devices": 1, "logger": False})
    with pytest.raises(RunError, match=r"^trainer\.callbacks: .*val_los\b.*val_loss"):  # the words are Lightning's
        fit(config, out=tmp_path / "run", callbacks=[kind(monitor="val_los")])  # type: ignore[call-arg]


def test_a_moved_run_keeps_its_best_score(tmp_path: Path, whole: dict[str, Any]) -> None:
    with pytest.raises(RunStopped):
        fit(tiny_config(), out=tmp_path / "run", callbacks=[after(7, terminate)])
    (tmp_path / "run").rename(tmp_path / "moved")
    resume(tmp_path / "moved")
    assert unlike(left_by(tmp_path / "moved"), whole) == []


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"accumulate_grad_batches": 2}, {"val_check_interval": 0.6}, {"max_steps": 8}])
def test_the_options_of_an_epoch_leave_a_resumed_run_exact(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = tiny_config(checkpoint={"every_steps": 1}, **{f"trainer__{key}": value for key, value in changes.items()})
    config = config.with_changes(model__mix={"class_path": "Mixup", "init_args": {"alpha": 0.3}})
    fit(config, out=tmp_path / "whole")
    with pytest.raises(OSError, match="power cut"):
        fit(config, out=tmp_path / "run", callbacks=[after(5, failing(OSError("power cut")))])
    resume(tmp_path / "run")
    assert unlike(left_by(tmp_path / "run"), left_by(tmp_path / "whole")) == []


def poison(module: torch.nn.Module, where: str, *, times: int) -> None:
    """Make the output, or the gradient, of a module infinite the first times it runs in training."""
    left = [times]

    def spoil(value: torch.Tensor) -> torch.Tensor:
        left[0] -= 1
        return value + float("inf") if left[0] >= 0 else value

    def forward(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        if where == "output" and module.training:
            return spoil(output)
        if output.requires_grad:
            output.register_hook(spoil)
        return output

    module.register_forward_hook(forward)


class Poison(Callback):
    def __init__(self, name: str, where: str, *, times: int = 1, step: int = 6) -> None:
        self.name, self.where, self.times, self.step = name, where, times, step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            self.step = -1
            poison(pl_module.model.get_submodule(self.name), self.where, times=self.times)


@pytest.mark.parametrize("where", ["output", "gradient"])
def test_the_layer_that_left_the_finite_numbers_is_named(tmp_path: Path, where: str) -> None:
    # Twice, because the step is looked at again.
    spoil = Poison("layer2.0.conv1", where, times=2)
    with refuses(TrainingDivergedError, "layer2"):
        fit(tiny_config(), out=tmp_path / "run", callbacks=[spoil])
    for name in ("best", "last"):
        model, _ = load_trained(tmp_path / "run" / "checkpoints" / f"{name}.ckpt")
        assert all(value.isfinite().all() for value in model.state_dict().values())
    assert resume(tmp_path / "run").summary["epochs"] == 2


@pytest.mark.parametrize("where", ["output", "gradient"])
def test_a_step_that_is_skipped_changes_no_weight(tmp_path: Path, where: str) -> None:
    states: list[dict[str, torch.Tensor]] = []

    class Record(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            states.append({key: value.clone() for key, value in pl_module.model.state_dict().items()})

    config = tiny_config(model__skip_nonfinite=10)
    result = fit(config, out=tmp_path / "run", callbacks=[Poison("layer2.0.conv1", where), Record()])
    assert result.summary["skipped_steps"] == 1
    # The seventh step, whose batch was the second of its epoch.
    assert all(torch.equal(states[6][key], states[5][key]) for key in states[5])
    assert not torch.equal(states[7]["conv1.0.weight"], states[6]["conv1.0.weight"])
    assert all(value.isfinite().all() for value in states[-1].values())


def test_skipped_steps_are_counted_over_a_resumed_run_and_end_it_in_a_row(tmp_path: Path) -> None:
    config = tiny_config(model__skip_nonfinite=3)
    with pytest.raises(RunStopped):
        fit(config, out=tmp_path / "run", callbacks=[Poison("fc", "output", step=1), after(7, terminate)])
    assert resume(tmp_path / "run").summary["skipped_steps"] == 1
    with refuses(TrainingDivergedError, "'fc'"):
        fit(config, out=tmp_path / "other", callbacks=[Poison("fc", "output", step=5, times=9)])


def test_corrupt_images_are_replaced_up_to_a_limit(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images", images=8)
    broken = [folder / "train" / "dark" / f"{number}.png" for number in (0, 7)]
    for path in broken:
        path.write_bytes(b"broken")
    with refuses(DataError, "--data.max_corrupt", str(folder / "train" / "dark")):
        fit(folder_config(folder), out=tmp_path / "none")
    with refuses(DataError, "data.max_corrupt"):
        fit(folder_config(folder, data__max_corrupt=1), out=tmp_path / "one")
    results = [
        fit(folder_config(folder).with_changes(data__max_corrupt=2, data__num_workers=workers), out=tmp_path / name)
        for workers, name in ((0, "two"), (2, "workers"))
    ]
    for result in results:
        found = result.summary["corrupt_images"]
        assert len(found) == 2
        assert all(any(str(path) in text for text in found) for path in broken)
    assert unlike(left_by(tmp_path / "two"), left_by(tmp_path / "workers")) == []
    (folder / "test" / "dark" / "0.png").write_bytes(b"broken")
    for workers in (0, 1):
        config = folder_config(folder).with_changes(data__max_corrupt=2, data__num_workers=workers)
        # Pillow's words are in it, and a loader's process passes its message on without the cause.
        with pytest.raises(DataError, match=r"test/dark/0\.png") as error:
            fit(config, out=tmp_path / f"test-{workers}")
        assert "Traceback" not in str(error.value)


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(checkpoint={"every_steps": 2})
    whole = fit(config, out=tmp_path / "whole")
    write = Path.write_bytes

    def full(self: Path, data: Any) -> int:
        write(self, bytes(data)[:1000])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    disk_full = after(1, lambda: monkeypatch.setattr(Path, "write_bytes", full))
    with refuses(CheckpointError, "last.ckpt"):
        fit(config, out=tmp_path / "run", callbacks=[disk_full])
    assert not (tmp_path / "run").exists()
    monkeypatch.undo()
    disk_full = after(3, lambda: monkeypatch.setattr(Path, "write_bytes", full))
    with refuses(CheckpointError, "last.ckpt"):
        fit(config, out=tmp_path / "run", callbacks=[disk_full])
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["last.ckpt"]
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    assert resume(tmp_path / "run").summary["test_loss"] == whole.summary["test_loss"]


def test_a_file_is_flushed_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    flush, rename = os.fsync, Path.replace
    kinds = {True: "folder", False: "file"}

    def fsync(descriptor: int) -> None:
        events.append(kinds[os.path.isdir(f"/proc/self/fd/{descriptor}")])
        flush(descriptor)

    def replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    with replacing(tmp_path / "x") as temporary:
        temporary.write_text("y")
    assert events == ["file", "rename", "folder"]
    (tmp_path / ".mine.tmp").touch()
    (tmp_path / ".x.12.tmp").touch()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.tmp", "x"]


# torch raises the error in the handler of SIGCHLD, so it may interrupt code that has just opened a file.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_dead_loader_is_one_sentence(tmp_path: Path) -> None:
    def kill() -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)

    folder = write_folder(tmp_path / "images", images=40)
    config = folder_config(folder, checkpoint={"every_steps": 2}).with_changes(data__num_workers=1)
    with refuses(DataError, "--resume"):
        fit(config, out=tmp_path / "run", callbacks=[after(3, kill)])
    assert resume(tmp_path / "run").summary["epochs"] == 2
    gc.collect()


def test_several_dead_loaders_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*_: Any) -> None:
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed. ")

    alive = [object()]
    monkeypatch.setattr("multiprocessing.active_children", lambda: alive)
    before = signal.signal(signal.SIGCHLD, told)
    later = [threading.Timer(delay, send, [signal.SIGCHLD]) for delay in (0.1, 0.2)]
    later.append(threading.Timer(0.3, alive.clear))
    for timer in later:
        timer.start()
    try:
        with (
            refuses(DataError),
            explained(tmp_path / "checkpoints" / "last.ckpt", processes=1),
        ):
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        assert signal.getsignal(signal.SIGCHLD) is told
    finally:
        for timer in later:
            timer.join()
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_folder_that_vanishes_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    folder = write_folder(tmp_path / "images", images=40)
    config = folder_config(folder, checkpoint={"every_steps": 2}).with_changes(data__num_workers=workers)
    fit(config, out=tmp_path / "whole")
    opened = multiprocessing.Value("i", 0)

    def counting(path: Path, mode: Any) -> Any:
        image = open_image(path, mode)
        with opened.get_lock():
            opened.value += 1
        return image

    def vanish() -> None:
        # A loader process reads two batches of four ahead. They are read before the folder vanishes, so that the first
        # missing image does not depend on the speed of that process.
        batches, end = 3 + (2 if workers else 0), time.monotonic() + 20
        while opened.value < 4 * batches and time.monotonic() < end:
            time.sleep(0.01)
        assert opened.value == 4 * batches
        folder.rename(tmp_path / "away")

    with monkeypatch.context() as patch, refuses(DataError, "--resume"):
        patch.setattr("dynaconv.train.data.folder.open_image", counting)
        fit(config, out=tmp_path / "run", callbacks=[after(3, vanish)])
    with refuses(RunError, "--data"):
        resume(tmp_path / "run")
    moved = resume(tmp_path / "run", overrides=[f"--data.name={tmp_path / 'away'}"])
    assert moved.summary["test_loss"] == json.loads((tmp_path / "whole" / "summary.json").read_text())["test_loss"]


@pytest.fixture
def stopped(tmp_path: Path) -> tuple[Path, Path]:
    """A run on a folder of images, stopped inside its first epoch; the folders of both."""
    folder = write_folder(tmp_path / "images", images=8)
    with pytest.raises(RunStopped):
        fit(folder_config(folder), out=tmp_path / "run", callbacks=[after(2, terminate)])
    return tmp_path / "run", folder


def test_a_changed_configuration_is_named(stopped: tuple[Path, Path]) -> None:
    run, folder = stopped
    with refuses(RunError, "model.lr"):
        resume(run, overrides=["--model.lr=0.2"])
    other = folder_config(folder, seed=4, model={"name": "test_resnet", "lr": 0.1})
    with refuses(RunError, "data.seed"):
        resume(run, config=other)
    assert resume(run, config=folder_config(folder)).summary["epochs"] == 2


def test_changed_data_are_named(stopped: tuple[Path, Path]) -> None:
    run, folder = stopped
    extra = folder / "train" / "dark" / "x.png"
    shutil.copy(folder / "train" / "dark" / "0.png", extra)
    with refuses(DataError):
        resume(run)
    (folder / "train" / "dark" / "0.png").unlink()
    with refuses(DataError):
        resume(run)
    extra.rename(folder / "train" / "dark" / "0.png")
    for split in ("train", "test"):
        (folder / split / "light").rename(folder / split / "sunny")
    with refuses(DataError, "light"):
        resume(run)
    for split in ("train", "test"):
        (folder / split / "sunny").rename(folder / split / "light")
    assert resume(run).summary["epochs"] == 2


def test_another_batch_is_refused_and_another_division_of_it_inside_an_epoch(stopped: tuple[Path, Path]) -> None:
    run, _ = stopped
    with refuses(RunError):
        resume(run, overrides=["--data.batch_size=8"])
    with refuses(RunError):
        resume(run, overrides=["--data.batch_size=2", "--trainer.accumulate_grad_batches=2"])
    saved = {"world_size": 4, "batch_size": 16, "accumulation": 1, "epochs": 2, "batches": 0}
    check_batch(saved, batch_size=32, processes=2, accumulation=1, readers=None)
    check_batch(saved, batch_size=32, processes=1, accumulation=2, readers=None)
    with refuses(RunError, "--batch-size"):
        check_batch(saved, batch_size=16, processes=2, accumulation=1, readers=None)
    with refuses(RunError):
        check_batch(saved, batch_size=16, processes=3, accumulation=1, readers=None)
