"""Progress on a terminal and without one."""

import io
from pathlib import Path
from typing import Literal

import pytest
from rich.console import Console

from dynaconv.train import console as console_module
from dynaconv.train.callbacks import ProgressEvent
from dynaconv.train.console import ConsoleReport

FACTS = {"model": "m", "params": 1234567, "train_images": 1000, "val_images": None, "test_images": 20}
ROW = {"lr": 0.1, "train_loss": 1.5, "train_acc": 0.5, "seconds": 2.0, "images_per_second": 500.0}


def event(kind: Literal["batch", "epoch"], batch: int) -> ProgressEvent:
    metrics = ROW if kind == "epoch" else {}
    return ProgressEvent(kind=kind, epoch=1, epochs=2, batch=batch, batches=9, seconds=0.1, metrics=metrics)


def test_without_a_terminal_there_is_one_line_an_epoch() -> None:
    stream = io.StringIO()
    with ConsoleReport(Console(file=stream, highlight=False)) as report:
        report.start(Path("runs/x"), FACTS)
        for batch in range(1, 9):
            report(event("batch", batch))
        report(event("epoch", 9))
    lines = stream.getvalue().replace("\n", " ")
    assert "1,234,567 parameters; 1,000 training, 20 test images; run folder runs/x" in lines
    assert "epoch 1/2  lr 0.1  loss 1.5000  acc 50.00%" in lines
    assert "batch" not in lines
    assert "\x1b" not in lines


def test_without_a_terminal_a_long_epoch_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "_SILENCE", -1.0)
    stream = io.StringIO()
    with ConsoleReport(Console(file=stream)) as report:
        report(event("batch", 4))
    assert stream.getvalue() == "epoch 1/2  batch 4/9\n"


def test_on_a_terminal_there_is_a_bar_that_ends() -> None:
    stream = io.StringIO()
    report = ConsoleReport(Console(file=stream, force_terminal=True, width=80))
    with report:
        report(event("batch", 4))
        assert report._bar is not None
    assert report._bar is None
    assert "4/9" in stream.getvalue()
