"""Ctrl+C and SIGTERM at any moment of any command: one sentence, an exit code, and nothing half-written."""

import multiprocessing
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import dynaconv
from dynaconv import cli
from dynaconv.cli import main
from tests.test_cli import TINY
from tests.test_cli_arguments import PARSERS, Base, argv_of, bases, checkpoint  # noqa: F401

PACKAGE = str(Path(dynaconv.__file__).parent)
# Parts of the functions of dynaconv that a command calls, after which the signal comes.
MOMENTS = (0.0, 0.3, 0.65, 0.95)
OUTPUTS = {
    "advise": {"json": ["a.json"]},
    "analyze": {"out": ["a.html"], "json": ["a.json"]},
    "convert": {"out": ["a.safetensors"]},
    "env": {"json": ["a.json"]},
    "eval": {"json": ["a.json"]},
    "models": {"json": ["a.json"]},
    "predict": {"json": ["a.json"]},
    "profile": {"json": ["a.json"], "csv": ["a.csv"]},
    "shard": {"out": ["deep/shards"]},
}
"""Files that the commands write, by the arguments that name them."""


@contextmanager
def at_call(number: int | None, do: Callable[[], object] = lambda: None) -> Iterator[list[int]]:
    """Call a function when a command calls dynaconv's functions for this time; the list holds the number of calls."""
    calls = [0]

    def profiled(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            calls[0] += 1
            if calls[0] == number:
                sys.setprofile(None)
                do()

    def run_profiled(given: list[str]) -> int:
        sys.setprofile(profiled)
        try:
            return run_command(given)
        finally:
            sys.setprofile(None)

    run_command = cli._run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_run", run_profiled)
        yield calls


def files() -> set[str]:
    return {str(path) for path in Path().rglob("*") if not path.is_dir()}


def run(argv: list[str]) -> int:
    try:
        return main(argv)
    except SystemExit as stopped:
        return int(stopped.code or 0)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, and no signal with a handler of pytest's."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield folder
    for number, handler in before.items():
        signal.signal(number, handler)


def check(capsys: pytest.CaptureFixture[str], code: int, number: signal.Signals, place: Path) -> None:
    """Check what an interrupted command says and leaves behind."""
    error = capsys.readouterr().err
    assert code == 128 + number, error
    last = "interrupted." if number == signal.SIGINT else f"stopped by {number.name}."
    assert error == f"dynaconv: {last}\n"
    assert not any(place.iterdir())
    assert not [name for name in files() if Path(name).name.startswith(".")]
    assert not multiprocessing.active_children()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


# The signal may come in a finaliser, where Python drops exceptions: the command is interrupted at its end then.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=[pytest.mark.slow] if command == "analyze" else [])
        for command in PARSERS
        if command != "train"
    ],
)
def test_a_command_that_is_interrupted_leaves_nothing_that_blocks_the_next_try(
    command: str,
    bases: Callable[[str], Base],  # noqa: F811
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = bases(command) | OUTPUTS.get(command, {})
    base.pop("overwrite", None)
    argv, before = argv_of(command, base), files()
    with at_call(None) as calls:
        assert run(argv) == 0
    made, total = files() - before, calls[0]
    assert (len(made) > 0) == (command in OUTPUTS)
    for position, moment in enumerate(MOMENTS):
        number, code = signal.SIGTERM if position % 2 else signal.SIGINT, 0
        while code == 0:
            for name in files() - before:
                Path(name).unlink()
            capsys.readouterr()
            with at_call(max(1, round(moment * total)), lambda number=number: signal.raise_signal(number)) as calls:
                code = run(argv)
            # A command that keeps something for the next one, such as a parsed table, is shorter than the first time.
            total = calls[0] if code == 0 else total
        # An earlier try that blocks this one gives another code.
        check(capsys, code, number, place)
        assert files() - before <= made


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("moment", [0.0, 0.3, 0.7, 0.97])
def test_a_training_that_is_interrupted_before_it_starts_leaves_no_folder(
    moment: float,
    number: signal.Signals,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["train", "--config", "digits", *TINY, "--out", "run"]

    class Stopped(BaseException):
        """Ends the count at the first step."""

    def stop(*_: Any, **__: Any) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr("dynaconv.train.execution.Run.execute", stop)
        with at_call(None) as calls, pytest.raises(Stopped):
            main(argv)
    assert not Path("run").exists()
    capsys.readouterr()
    with at_call(max(1, round(moment * calls[0])), lambda: signal.raise_signal(number)):
        code = main(argv)
    check(capsys, code, number, place)
    assert not Path("run").exists()
