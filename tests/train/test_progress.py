"""Progress on a terminal and without one, and the number of threads."""

import io
import os
from pathlib import Path

import pytest
import torch
from rich.console import Console

from dynaconv.train import progress as progress_module
from dynaconv.train.progress import RunProgress
from dynaconv.train.run import fit
from dynaconv.train.threads import divide_threads, limit_threads
from tests.train.helpers import tiny_config

pytestmark = pytest.mark.usefixtures("own_environment")


def printed(out: Path, *, terminal: bool = False, title: str = "") -> str:
    """Run a training of two epochs of five steps, and return the text that its progress prints."""
    stream = io.StringIO()
    progress = RunProgress(
        Console(file=stream, width=200, force_terminal=terminal, color_system=None, highlight=False), title=title
    )
    fit(tiny_config(), out=out, on_start=progress.start, callbacks=[progress])
    assert progress._bar is None
    return stream.getvalue()


def test_without_a_terminal_there_is_one_line_an_epoch(tmp_path: Path) -> None:
    first, *epochs = printed(tmp_path / "run", title="a  ").splitlines()
    assert first.endswith(f"160 training, 136 validation, 450 test images; 1 thread; run folder {tmp_path / 'run'}")
    assert [line.split("  ")[:2] for line in epochs] == [["a", "epoch 1/2"], ["a", "epoch 2/2"]]
    assert all(word in line for line in epochs for word in ("lr ", "loss ", "val acc ", " images/s"))


def test_without_a_terminal_a_long_epoch_is_not_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "_SILENCE", -1.0)
    assert "epoch 2/2  batch 4/5  lr " in printed(tmp_path / "run")


def test_on_a_terminal_there_is_a_bar_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "_REFRESH", -1.0)
    text = printed(tmp_path / "run", terminal=True)
    # The bar is drawn ten times a second, and once at the end.
    assert "epoch 2/2  batch 5/5  lr " in text
    assert "steps/s" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l"), "the cursor is shown again"


def test_threads_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr("dynaconv.train.threads.cpu_count", lambda only_physical_cores: 3)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    limit_threads()
    divide_threads(1)
    assert set_to == [3]
    divide_threads(3)
    assert set_to == [3, 2]
    assert os.environ["OMP_NUM_THREADS"]
    limit_threads()
    divide_threads(2)
    assert set_to == [3, 2]
