from __future__ import annotations

import io

from rich.console import Console

from dynaconv.demo.progress import TwinProgress
from dynaconv.train.callbacks import ProgressEvent


def _event(kind: str, epoch: int, batch: int) -> ProgressEvent:
    metrics = {"train_loss": 0.5, "val_acc": 0.875} if kind == "epoch" else {}
    return ProgressEvent(kind=kind, epoch=epoch, epochs=2, batch=batch, batches=3, seconds=1.5, metrics=metrics)


def _show(console: Console) -> None:
    with TwinProgress(console, ["static", "DCD"]) as progress:
        for title in ("static", "DCD"):
            progress.start(title)
            for epoch in (1, 2):
                for batch in (1, 2, 3):
                    progress.update(title, _event("batch", epoch, batch))
                progress.update(title, _event("epoch", epoch, 3))


def test_a_plain_stream_gets_one_line_an_epoch() -> None:
    stream = io.StringIO()
    _show(Console(file=stream, width=40))
    assert stream.getvalue().splitlines() == [
        f"{title}  epoch {epoch}/2  loss 0.500  validation  87.5%  1.5 s"
        for title in ("static", "DCD   ")
        for epoch in (1, 2)
    ]


def test_a_terminal_gets_a_bar_a_network_that_ends_full() -> None:
    stream = io.StringIO()
    _show(Console(file=stream, width=120, force_terminal=True, color_system=None))
    last = stream.getvalue().rsplit("static", 1)[-1]
    assert last.count("epoch 2/2  loss 0.500  validation  87.5%") == 2
