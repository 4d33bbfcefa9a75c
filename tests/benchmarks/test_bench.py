"""The inference benchmark: what it measures first, what it keeps, what it says of what failed."""

import importlib
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.messages import refuses

from dynaconv.families import families

timm = pytest.importorskip("timm")
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
    modules |= {name: importlib.import_module(f"_{name}") for name in ("families", "growth", "growth_page")}
    return SimpleNamespace(**modules, main=importlib.import_module("latency"), grow=importlib.import_module("growth"))


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
    arguments = ("--networks", "static", "dcd", "--runtimes", "eager", "ort")
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
    page = (tmp_path / "out" / "results.md").read_text()
    assert "- MobileNetV2 x0.35, DCD, ONNX Runtime (batch 1, 1 thread(s)): InvalidProtobuf" in page
    assert (tmp_path / "out" / "ratios.png").exists()
    assert run(tmp_path, *arguments) == first


@pytest.mark.export
def test_files_of_other_runtimes_are_written_and_kept(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    data = run(tmp_path, "--networks", "static", "--runtimes", "ort", "openvino")
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
    groups = script.cells.groups(script.main.parsed(["--threads", "1", "2"]))
    first, second = (group.cells[0] for group in groups[:2])
    assert (first.architecture, first.batch, first.threads) == ("mobilenetv2_100", 1, 2)
    assert (second.architecture, second.batch, second.threads) == ("mobilenetv2_100", 16, 2)
    names = script.families.networks()
    assert names.keys() == {"static", "dcd_published", *(family.name for family in families())}
    timm_names = [importlib.import_module("_runtimes").timm_name(name, "mobilenetv2_100") for name in names]
    assert set(timm_names) <= set(timm.list_models("*_mobilenetv2_100*"))
    # Four runtimes run every network.
    cells = 4 * len(names) + len(script.families.native_networks())
    assert sum(len(group.cells) for group in groups) == 4 * 3 * 2 * cells


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
    assert script.growth.slope([1, 2, 8], [3, 12, 192]) == pytest.approx(2)


def test_one_quantity_grows_at_a_time_for_every_family_that_has_it(script: SimpleNamespace) -> None:
    found = script.grow.growths(script.grow.parsed(["--threads", "1", "2"]))
    assert {(each.axis, each.runtime, each.threads) for each in found} == {
        (axis, runtime, threads)
        for axis in ("batch", "side", "kernels")
        for runtime in ("native", "ort")
        for threads in (1, 2)
    }
    names = {family.name for family in families()}
    for each in found:
        every = names & set(script.families.native_networks()) if each.runtime == "native" else names
        having = {name for name in every if each.axis != "kernels" or script.families.number_option(name)}
        assert each.values.keys() == having | {"static"}
        low, high = {"batch": (1, 64), "side": (96, 448), "kernels": (1, 16)}[each.axis]
        assert (min(each.values["dyconv"]), max(each.values["dyconv"])) == (low, high)
    kernels = next(each for each in found if (each.axis, each.runtime) == ("kernels", "ort"))
    assert kernels.values["kernel_warehouse"] == (1, 2, 4)
    size, options = (1, 3, 224, 224), {"family_options": {"num_experts": 16}}
    assert script.growth.growth_case(kernels, "condconv", 16) == (size, options)
    assert script.growth.growth_case(kernels, "condconv", 8) == (size, {})
    assert kernels.twin(16) == ("static", "1")
    with pytest.raises(SystemExit):
        script.grow.parsed(["--axes", "width"])


def test_growth_is_measured_once_and_shown_beside_the_cost_model(tmp_path: Path) -> None:
    places = ("--out", str(tmp_path / "out"), "--folder", str(tmp_path / "files"))
    options = ("--architecture", "mobilenetv2_035", "--side", "32", "--networks", "dcd", "--runtimes", "eager")
    limits = ("--threads", "1", "--seconds", "0", "--burst", "1", "--axes", "batch")
    command = [sys.executable, BENCHMARKS / "growth.py", "--quick", *options, *limits, *places]
    subprocess.run(command, check=True, timeout=600)
    first = (tmp_path / "out" / "growth.json").read_text()
    rows = json.loads(first)["growth"]
    wanted = [(name, value) for name in ("static", "dcd") for value in (1, 4, 16)]
    assert [(row["network"], row["value"]) for row in rows] == wanted
    assert {row["ratio"] for row in rows if row["network"] == "static"} == {1}
    assert all(row["macs"] == row["value"] * rows[0]["macs"] for row in rows if row["network"] == "static")
    page = (tmp_path / "out" / "growth.md").read_text()
    assert re.search(
        r"\| MobileNetV2 x0.35 \| PyTorch \| 1 \| DCD \| 1 to 16 \| [0-9.]+ to [0-9.]+ \| [0-9.]+ \| [01]\.[0-9]+ \|",
        page,
    )
    assert len((tmp_path / "out" / "growth.csv").read_text().splitlines()) == 7
    assert (tmp_path / "out" / "growth_batch.png").exists()
    subprocess.run(command, check=True, timeout=600)
    assert (tmp_path / "out" / "growth.json").read_text() == first
