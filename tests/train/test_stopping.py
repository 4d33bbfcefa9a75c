"""Signals that ask a run to stop, wherever they come: it saves, and goes on from there as if nothing had been."""

import multiprocessing
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

import dynaconv.files
import dynaconv.train.execution
from dynaconv.cli import main
from dynaconv.train.evaluate import Evaluation
from dynaconv.train.run import fit, resume
from dynaconv.train.saving import SaveRun
from dynaconv.train.stopping import RunStopped, start_loader_process
from tests.messages import refuses
from tests.train.helpers import When, folder_config, send, tiny_config, write_folder
from tests.train.test_kill import left_by, start, unlike

pytestmark = pytest.mark.usefixtures("own_environment")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


# The first step of the run, within an epoch, its last step, its validation, the last of the run.
@pytest.mark.parametrize(
    ("hook", "step", "after", "number"),
    [
        ("on_train_batch_end", 1, 1, signal.SIGINT),
        ("on_train_batch_end", 3, 3, signal.SIGTERM),
        ("on_before_zero_grad", 7, 8, signal.SIGINT),
        ("on_train_batch_end", 7, 7, signal.SIGUSR1),
        ("on_train_batch_end", 5, 5, signal.SIGINT),
        ("on_train_batch_end", 5, 5, signal.SIGTERM),
        ("on_validation_batch_end", 5, 5, signal.SIGINT),
        ("on_train_epoch_end", 5, 5, signal.SIGINT),
        ("on_train_batch_start", 9, 10, signal.SIGINT),
        ("on_validation_batch_end", 10, 10, signal.SIGINT),
    ],
)
def test_a_signal_saves_wherever_the_run_is(
    tmp_path: Path, whole: dict[str, Any], hook: str, step: int, after: int, number: signal.Signals
) -> None:
    handlers = [signal.getsignal(each) for each in SIGNALS]
    with refuses(RunStopped, number.name) as stopped:
        fit(tiny_config(), out=tmp_path / "run", callbacks=[When(hook, step, partial(send, number))])
    assert [signal.getsignal(each) for each in SIGNALS] == handlers
    assert stopped.value.directory == tmp_path / "run"
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == after
    resume(tmp_path / "run")
    assert unlike(left_by(tmp_path / "run"), whole) == []


def test_a_stop_is_no_failure_that_a_loop_goes_on_after() -> None:
    assert not issubclass(RunStopped, Exception)


def in_test(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    evaluate = dynaconv.train.execution.evaluate

    def interrupted(*args: Any, report: Callable[[int], None], **options: Any) -> Evaluation:
        def told(images: int) -> None:
            do()
            report(images)

        return evaluate(*args, report=told, **options)

    monkeypatch.setattr(dynaconv.train.execution, "evaluate", interrupted)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_stop_in_the_test_leaves_the_training_done(
    tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    with monkeypatch.context() as patch:
        in_test(patch, partial(send, number))
        with refuses(RunStopped, number.name):
            fit(tiny_config(), out=tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()
    resume(tmp_path / "run")
    assert unlike(left_by(tmp_path / "run"), whole) == []


def test_ctrl_c_twice_stops_at_once_and_keeps_the_checkpoint_before(tmp_path: Path, whole: dict[str, Any]) -> None:
    # Validation is waited for, but not by someone who presses twice.
    twice = [When("on_validation_start", 10), When("on_validation_batch_end", 10)]
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_config(checkpoint={"every_steps": 3}), out=tmp_path / "run", callbacks=twice)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 8
    resume(tmp_path / "run")
    assert unlike(left_by(tmp_path / "run"), whole) == []


def test_ctrl_c_while_the_run_is_saved_damages_nothing(
    tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = dynaconv.files._flush

    def interrupted(path: Path) -> None:
        if path.name.startswith(".last.ckpt"):
            send()
        flush(path)

    break_in = When("on_train_batch_start", 6, lambda: monkeypatch.setattr(dynaconv.files, "_flush", interrupted))
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_config(), out=tmp_path / "run", callbacks=[break_in, When("on_train_batch_start", 6)])
    monkeypatch.undo()
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 5
    resume(tmp_path / "run")
    assert unlike(left_by(tmp_path / "run"), whole) == []


def test_ctrl_c_twice_before_anything_is_saved_leaves_no_folder(tmp_path: Path) -> None:
    twice = [When("on_train_batch_start", 0), When("on_before_zero_grad", 0)]
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_config(), out=tmp_path / "run", callbacks=twice)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_that_the_process_ignores_stays_ignored(
    tmp_path: Path, whole: dict[str, Any], number: signal.Signals
) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        fit(tiny_config(), out=tmp_path / "run", callbacks=[When("on_train_batch_end", 3, partial(send, number))])
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
    assert unlike(left_by(tmp_path / "run"), whole) == []


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_that_comes_too_late_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    got: list[int] = []
    monkeypatch.setattr(dynaconv.train.execution, "training_curves", lambda *_: send(number) or Figure())
    before = signal.signal(number, lambda number, _: got.append(number))
    try:
        fit(tiny_config(), out=tmp_path / "run")
    finally:
        signal.signal(number, before)
    assert got == [number]
    assert (tmp_path / "run" / "summary.json").is_file()


# Step 3 is in the first epoch, 7 in the second.
@pytest.mark.parametrize("step", [3, 7])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_stream_that_cannot_be_saved_inside_an_epoch_says_what_is_kept(
    tmp_path: Path,
    whole: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    step: int,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            dynaconv.train.execution,
            "SaveRun",
            lambda *args, inside_epochs: SaveRun(*args, inside_epochs=False),
        )
        stop = When("on_train_batch_end", step, partial(send, number))
        with refuses(RunStopped, number.name):
            fit(tiny_config(), out=tmp_path / "run", callbacks=[stop])
    resume(tmp_path / "run")
    assert unlike(left_by(tmp_path / "run"), whole) == []


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_to_the_whole_process_group_spares_the_loaders(tmp_path: Path, number: signal.Signals) -> None:
    def loaders() -> list[Any]:
        return [child for child in multiprocessing.active_children() if child not in others]

    def send_to_all() -> None:
        running = loaders()
        assert len(running) == 2
        # Torch tells a SIGTERM of its own process apart.
        subprocess.run(["kill", f"-{number.name}", *(str(loader.pid) for loader in running)], check=True)
        time.sleep(0.5)
        assert all(loader.is_alive() for loader in running)
        send(number)

    # Loaders of an earlier test live until its exception is collected.
    others = multiprocessing.active_children()
    config = folder_config(write_folder(tmp_path / "images", images=16)).with_changes(data__num_workers=2)
    fit(config, out=tmp_path / "whole")
    with refuses(RunStopped):
        fit(config, out=tmp_path / "run", callbacks=[When("on_train_batch_start", 2, send_to_all)])
    assert not loaders()
    resume(tmp_path / "run")
    assert unlike(left_by(tmp_path / "run"), left_by(tmp_path / "whole")) == []


def _hang() -> None:
    start_loader_process(0)
    os.kill(os.getppid(), signal.SIGUSR2)
    time.sleep(60)


def test_a_loader_that_hangs_ends_when_its_run_says_so() -> None:
    ready: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: ready.append(number))
    try:
        loader = multiprocessing.get_context("fork").Process(target=_hang)
        loader.start()
        while not ready:
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGUSR2, before)
    subprocess.run(["kill", "-TERM", str(loader.pid)], check=True)
    loader.join(0.5)
    assert loader.is_alive()
    loader.terminate()
    loader.join(30)
    assert loader.exitcode == 0


def in_third_step(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    training_step = dynaconv.train.execution.ClassificationModule.training_step

    def interrupted(self: Any, batch: Any, batch_index: int) -> Any:
        if self.global_step == 2:
            do()
        return training_step(self, batch, batch_index)

    monkeypatch.setattr(dynaconv.train.execution.ClassificationModule, "training_step", interrupted)


TINY = ["--model=test_resnet", "--data.train_limit=160", "--trainer.accelerator=cpu", "--trainer.logger=false"]
HINT = "\ndynaconv: the run stops once it is saved; press Ctrl+C again to stop at once.\n"


@pytest.mark.parametrize(("number", "hint", "status"), [(signal.SIGINT, HINT, 130), (signal.SIGTERM, "", 0)])
def test_the_command_saves_and_says_how_to_go_on(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    hint: str,
    status: int,
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        in_third_step(patch, partial(send, number))
        command = ["train", "--data", "digits", *TINY, "--batch-size=32", "--epochs=1", "--out", str(folder)]
        assert main(command) == status
    said = f"dynaconv: stopped by {number.name} after step 3; continue with `dynaconv train --resume {folder}`\n"
    assert capfd.readouterr().err == hint + said
    with monkeypatch.context() as patch:
        in_test(patch, lambda: (send(), send()))
        assert main(["train", "--resume", str(folder)]) == 130
    said = f"dynaconv: interrupted; continue with `dynaconv train --resume {folder}`\n"
    assert capfd.readouterr().err == HINT + said
    assert main(["train", "--resume", str(folder), "--data.num_workers", "1"]) == 0
    assert (folder / "summary.json").is_file()


@pytest.mark.parametrize(("number", "hint", "status"), [(signal.SIGINT, HINT, 130), (signal.SIGTERM, "", 1)])
def test_a_demonstration_saves_the_network_at_hand_and_says_so(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    hint: str,
    status: int,
) -> None:
    in_third_step(monkeypatch, partial(send, number))
    assert main(["demo", "--out", str(tmp_path / "demo"), "--epochs", "1"]) == status
    assert capfd.readouterr().err == (
        f"{hint}dynaconv: stopped by {number.name} after step 3; a demonstration does not go on from there: start it "
        f"again, or finish this network alone with `dynaconv train --resume {tmp_path / 'demo' / 'static'}`.\n"
    )
    assert (tmp_path / "demo" / "static" / "checkpoints" / "last.ckpt").is_file()


PROGRAM = ["-m", "dynaconv", "train", "--data", "digits", *TINY, "--batch-size=4", "--epochs=60", "--out"]


def in_terminal(folder: Path) -> tuple[int, int, bytes]:
    """Train in a terminal of its own; the process, the terminal and what it showed, once the first epoch is done."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ["OMP_NUM_THREADS"] = "1"
        os.execv(sys.executable, [sys.executable, *PROGRAM, str(folder)])
    deadline = time.monotonic() + 120
    shown = b""
    while not (folder / "checkpoints" / "last.ckpt").is_file():
        assert time.monotonic() < deadline
        shown += os.read(terminal, 1 << 16)
    return child, terminal, shown


@pytest.mark.slow
@pytest.mark.parametrize("keys", [b"\x03", b"\x03\x03"], ids=["once", "twice"])
def test_ctrl_c_in_a_terminal(tmp_path: Path, keys: bytes) -> None:
    child, terminal, shown = in_terminal(tmp_path / "run")
    for key in keys:
        os.write(terminal, bytes([key]))
        time.sleep(0.05)
    try:
        while data := os.read(terminal, 1 << 16):
            shown += data
    # What a terminal without processes gives.
    except OSError:
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    assert b"Traceback" not in shown
    assert f"continue with `dynaconv train --resume {tmp_path / 'run'}`".encode() in shown
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l"), "the cursor is shown again"
    assert not list((tmp_path / "run").rglob("*.tmp"))


@pytest.mark.slow
def test_a_terminal_that_is_closed_lets_the_run_be_saved(tmp_path: Path) -> None:
    child, terminal, _ = in_terminal(tmp_path / "run")
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert 0 < last["global_step"] < 60 * 36


@pytest.mark.slow
def test_nohup_keeps_a_run_from_a_hangup(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start(
        ["-c", f"import os; os.execvp('nohup', {['nohup', sys.executable, *PROGRAM, str(tmp_path / 'run')]!r})"], log
    )
    while not (tmp_path / "run" / "metrics.csv").is_file():
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert "stopped by SIGTERM" in log.read_text()
