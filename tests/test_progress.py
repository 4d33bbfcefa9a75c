"""The line on a terminal that says which step runs."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dynaconv.export import export_program
from dynaconv.progress import done, step


class Terminal(io.StringIO):
    """Standard error on a terminal."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """What the line showed, one after another; "" where it was erased."""
        return self.getvalue().split("\r\x1b[K")[1:]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    made = Terminal()
    # Not sys.stderr itself, which pytest sets anew before the test.
    monkeypatch.setattr("dynaconv.progress.sys", SimpleNamespace(stderr=made))
    return made


def test_a_line_shows_the_innermost_step_and_is_gone_at_the_end(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        with step("one"):
            with step("two"):
                done(1000, 2000, "images")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert terminal.lines() == ["one ...", "two ...", "two, 1,000 of 2,000 images ...", "one ...", ""]
    done(1, 2, "images")
    assert len(terminal.lines()) == 5
    monkeypatch.setenv("COLUMNS", "20")
    with step("x" * 50):
        pass
    assert max(map(len, terminal.lines()[5:])) == 19


def test_an_export_names_its_steps(terminal: Terminal, tmp_path: Path) -> None:
    export_program(nn.Conv2d(3, 4, 3), tmp_path / "net.pt2", torch.rand(1, 3, 8, 8), free_size=False)
    shown = " ".join(terminal.lines())
    for part in ("preparing", "tracing", "writing torch.export program", "loading", "comparing"):
        assert part in shown
    assert terminal.lines()[-1] == ""


def test_without_a_terminal_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    with step("one"):
        done(1, 2, "images")
    assert capsys.readouterr() == ("", "")
