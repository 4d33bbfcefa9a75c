"""The inference benchmark: what it measures first, what it keeps, what it says of what failed."""

import importlib
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.messages import refuses

pytest.importorskip("timm")
pytest.importorskip("matplotlib")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = (
    "--quick",
    "--architectures",
    "mobilenetv2_035",
    "--side",
    "32",
    "--threads",
    "1",
    "--rounds",
    "3",
    "--seconds",
    "0",
)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    modules = {name: importlib.import_module(f"_latency_{name}") for name in ("cells", "store", "page")}
    return SimpleNamespace(**modules, main=importlib.import_module("latency"))


def run(folder: Path, *arguments: str) -> dict[str, Any]:
    """Let the script run on something tiny; its results."""
    places = ("--out", str(folder / "out"), "--folder", str(folder / "files"))
    subprocess.run([sys.executable, BENCHMARKS / "latency.py", *TINY, *places, *arguments], check=True, timeout=600)
    data: dict[str, Any] = json.loads((folder / "out" / "latency.json").read_text())
    return data


def row(script: SimpleNamespace, **changes: Any) -> dict[str, Any]:
    cell = {"architecture": "resnet18", "side": 224, "batch": 1, "threads": 2, "network": "dcd", "runtime": "ort"}
    memory = {"imported": 100.0, "loaded": 150.0, "peak": 180.0}
    times = {"ms": 12.0, "quartiles": [11.0, 13.0], "rounds": 5, "ratio": 1.25, "ratio_to_static_ort": 1.25}
    return cell | times | {"bytes": 2**21, "memory_mib": memory, "idle": 0.0, "others": 0.0} | changes


def test_a_tiny_network_is_measured_once_and_one_that_fails_has_its_reason(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for network in ("static", "dcd"):
        (tmp_path / "files" / f"{network}_mobilenetv2_035_32.onnx").write_bytes(b"no network")
    arguments = ("--networks", "static", "dcd", "--runtimes", "eager", "ort", "--growth", "batch")
    first = run(tmp_path, *arguments)
    cells = {(cell["network"], cell["runtime"]): cell for cell in first["cells"]}
    assert len(cells) == len(first["cells"]) == 4
    assert cells["static", "eager"]["ratio"] == 1
    assert cells["dcd", "eager"]["ratio"] > 0
    assert cells["dcd", "eager"]["bytes"] > cells["static", "eager"]["bytes"] > 4e6
    memory = cells["dcd", "eager"]["memory_mib"]
    assert 0 <= cells["dcd", "eager"]["others"] <= 1
    assert 0 < memory["imported"] < memory["loaded"] < memory["peak"]
    assert "InvalidProtobuf" in cells["static", "ort"]["failure"]
    assert [entry["value"] for entry in first["growth"] if entry["network"] == "dcd"] == [1, 4, 16]
    page = (tmp_path / "out" / "results.md").read_text()
    assert "- MobileNetV2 x0.35, DCD, ONNX Runtime (batch 1, 1 thread(s)): InvalidProtobuf" in page
    assert (tmp_path / "out" / "ratios.png").exists()
    assert (tmp_path / "out" / "growth.png").exists()
    assert run(tmp_path, *arguments) == first


@pytest.mark.export
def test_files_of_other_runtimes_are_written_and_kept(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    data = run(tmp_path, "--networks", "static", "--runtimes", "ort", "openvino", "--growth")
    assert [cell.get("failure") for cell in data["cells"]] == [None, None]
    assert sorted(path.suffix for path in (tmp_path / "files").iterdir()) == [".bin", ".onnx", ".xml"]


def test_candidates_take_turns_also_beside_busy_processors(script: SimpleNamespace) -> None:
    measure = importlib.import_module("_turns").measure
    # What loads a candidate is pickled into its process, and returns what runs it.
    found = measure({"a": partial(partial, len, "ab")}, 2, busy=(1,), calls=3)
    assert {case: len(times) for case, times in found.items()} == {("a", 0): 2, ("a", 1): 2}
    with pytest.raises(RuntimeError, match="b fails: ValueError: invalid literal"):
        measure({"b": partial(int, "x")}, 1)


def test_the_most_interesting_comes_first(script: SimpleNamespace) -> None:
    found = script.cells.units(script.main.parsed(["--threads", "1", "2"]))
    groups = [unit for unit in found if isinstance(unit, script.cells.Group)]
    first, second = (group.cells[0] for group in groups[:2])
    assert (first.architecture, first.batch, first.threads) == ("mobilenetv2_100", 1, 2)
    assert (second.architecture, second.batch, second.threads) == ("mobilenetv2_100", 16, 2)
    assert sum(len(group.cells) for group in groups) == 4 * 3 * 2 * (4 * 6 + 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "0"], "an integer from 1 up is needed, not '0'"),
        (["--threads", "4096"], "--threads 4096 is more than the"),
        (["--networks", "dcd2"], "invalid choice: 'dcd2'"),
        (["--rounds", "many"], "an integer from 1 up is needed, not 'many'"),
    ],
)
def test_wrong_arguments_are_refused(
    script: SimpleNamespace, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        script.main.parsed(arguments)
    assert message in capsys.readouterr().err


def test_results_of_another_machine_or_of_something_else_are_not_touched(
    script: SimpleNamespace, tmp_path: Path
) -> None:
    store = script.store.Store(tmp_path / "latency.json")
    store.add(script.store.here() | {"processor": "abacus"}, cells=[row(script)])
    # It names this machine, too.
    with pytest.raises(ValueError, match=r"abacus.* --out"):
        script.store.Store(store.path).check_processor()
    store.path.write_text("[]")
    with refuses(ValueError):
        script.store.Store(store.path)


def test_a_new_number_takes_the_place_of_the_old_one(script: SimpleNamespace, tmp_path: Path) -> None:
    store = script.store.Store(tmp_path / "latency.json")
    store.add(script.store.here(), cells=[row(script), row(script, network="static")])
    store.add(script.store.here(), cells=[row(script, ms=9.0)])
    again = script.store.Store(store.path)
    assert [(each["network"], each["ms"], each["session"]) for each in again.data["cells"]] == [
        ("dcd", 9.0, "2"),
        ("static", 12.0, "1"),
    ]
    assert list(again.data["sessions"]) == ["1", "2"]


def test_the_page_keeps_what_is_around_its_marks(script: SimpleNamespace, tmp_path: Path) -> None:
    static = row(script, network="static", ms=9.6, ratio=1.0, ratio_to_static_ort=1.0)
    failed = {key: value for key, value in row(script, network="odconv").items() if key in script.store._CELL_KEYS}
    data = {
        "sessions": {"1": script.store.here()},
        "cells": [each | {"session": "1"} for each in (static, row(script), failed | {"failure": "no way"})],
        "growth": [],
    }
    page = tmp_path / "page.md"
    page.write_text("\n".join(("before", *script.page.MARKS, "after")))
    script.page.write(data, tmp_path, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter")
    assert "| 1 | 2 | DCD | 12.0 (1.25) |" in text
    assert "| ResNet-18 | 1 | DCD | 2.0 | 80 |" in text
    assert "- ResNet-18, ODConv (4), ONNX Runtime (batch 1, 2 thread(s)): no way" in text
    page.write_text("nothing to fill in")
    with refuses(ValueError):
        script.page.write(data, tmp_path, page)


def test_the_slope_of_a_power_is_its_exponent(script: SimpleNamespace) -> None:
    assert script.cells.slope([1, 2, 8], [3, 12, 192]) == pytest.approx(2)
