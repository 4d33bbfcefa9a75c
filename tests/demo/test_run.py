from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread
from rich.console import Console
from tests.messages import refuses

from dynaconv.demo import DemoResult, run_demo
from dynaconv.demo.run import RECIPE
from dynaconv.errors import RunError
from dynaconv.train.checkpoint import load_trained
from dynaconv.train.config import load_recipe

SECTIONS = (
    "Result",
    "Learning curves",
    "What a dynamic kernel is",
    "What it learned",
    "Pictures and predictions",
    "What to try next",
    "What was run",
)


def _run(out: Path, **options: int) -> tuple[DemoResult, str]:
    console = Console(file=io.StringIO(), width=100, record=True)
    result = run_demo(out, console=console, command="dynaconv demo <out>", **options)
    return result, console.export_text()


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoResult, str]:
    """The demonstration with an epoch of twenty steps."""
    short = load_recipe(RECIPE).with_changes(data__epoch_size=2560)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dynaconv.demo.run.load_recipe", lambda name: short)
        return _run(tmp_path_factory.mktemp("demo") / "demo", epochs=1)


def test_the_folder_holds_everything(mini: tuple[DemoResult, str]) -> None:
    folder = mini[0].folder
    for name in ("table.csv", "curves.png", "coefficients.png", "report.html"):
        assert (folder / name).stat().st_size > 200
    for name in ("static", "dcd"):
        assert (folder / name / "metrics.csv").is_file()
        model, metadata = load_trained(folder / name)
        assert metadata["model"] == f"{name}_resnet10"
        assert not model.training


def test_the_figures_are_drawn(mini: tuple[DemoResult, str]) -> None:
    for name in ("curves.png", "coefficients.png"):
        pixels = imread(mini[0].folder / name)
        assert pixels.shape[1] > 1200
        assert pixels[..., :3].std() > 0.02


def test_the_report_has_every_section_and_asks_nothing_from_elsewhere(mini: tuple[DemoResult, str]) -> None:
    written = mini[0].report.read_text(encoding="utf-8")
    for title in SECTIONS:
        assert f"<h2>{title}</h2>" in written
    # The one address is the name of the SVG language, which nothing fetches.
    assert set(re.findall(r"https?://[^\"'\s<)]+", written)) <= {"http://www.w3.org/2000/svg"}
    sources = re.findall(r"(?:src|href|data)=\"([^\"]*)\"", written) + re.findall(r"url\(([^)]*)\)", written)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "<script" not in written
    assert "dynaconv demo &lt;out&gt;" in written
    assert written.count("data:image/png") > 12


def test_the_numbers_agree_between_table_report_and_summaries(mini: tuple[DemoResult, str]) -> None:
    result, printed = mini
    written = result.report.read_text(encoding="utf-8")
    with (result.folder / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for network, row in zip(result.networks, rows, strict=True):
        assert float(row["accuracy"]) == pytest.approx(network.accuracy, abs=1e-6)
        for cell in network.cells():
            assert cell in printed
            assert f">{cell}<" in written
    assert result.dynamic.params > result.static.params
    assert result.dynamic.macs > result.static.macs


def test_progress_is_one_line_an_epoch_without_a_terminal(mini: tuple[DemoResult, str]) -> None:
    lines = [line for line in mini[1].splitlines() if "epoch 1/1" in line]
    assert [line.split()[0] for line in lines] == ["static", "DCD"]
    assert all("loss" in line and "val acc" in line for line in lines)
    assert str(mini[0].report.resolve()) in mini[1].replace("\n", "")


def test_threads_are_as_they_were(mini: tuple[DemoResult, str]) -> None:
    assert torch.get_num_threads() == 1


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Runs the demonstration up to its first training and gives the folder it chose."""

    class _StopError(Exception):
        pass

    chosen: list[Path] = []

    def stop(recipe: object, folder: Path, console: object) -> None:
        chosen.append(folder)
        (folder / "static").mkdir()
        raise _StopError

    monkeypatch.setattr("dynaconv.demo.run._train_twins", stop)

    def start(out: Path) -> Path:
        with pytest.raises(_StopError):
            run_demo(out, console=Console(file=io.StringIO()))
        return chosen[-1]

    return start


def test_a_folder_is_never_written_over(tmp_path: Path, no_training: Callable[[Path], Path]) -> None:
    out = tmp_path / "runs" / "demo"
    assert [no_training(out).name for _ in range(3)] == ["demo", "demo-2", "demo-3"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert no_training(empty) == empty


def test_bad_arguments_are_told_in_one_sentence(tmp_path: Path) -> None:
    with refuses(RunError):
        run_demo(tmp_path / "demo", epochs=0)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with refuses(RunError):
        run_demo(blocked / "demo")


def test_kernels_move_and_the_report_says_how_far(mini: tuple[DemoResult, str]) -> None:
    result, printed = mini
    assert len(result.movement) == 8
    assert all(share > 0 for share in result.movement.values())
    assert result.movement_sentence() in " ".join(printed.split())
    assert result.movement_sentence() in result.report.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_dynamic_network_is_ahead(tmp_path: Path) -> None:
    result, _ = _run(tmp_path / "demo")
    assert result.dynamic.accuracy > result.static.accuracy > 0.7
