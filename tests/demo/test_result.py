from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from rich.console import Console

from dynaconv.demo.result import COLUMNS, DemoResult, NetworkResult, rich_table, write_table
from dynaconv.measure.latency import ModelLatency


def _network(title: str, correct: list[bool], *, scale: int = 1, native: bool = True) -> NetworkResult:
    return NetworkResult(
        title=title,
        model=f"{title.lower()}_mobilenetv2_035",
        params=400_000 * scale,
        macs=4_000_000 * scale,
        train_seconds=20.0 * scale,
        eager=ModelLatency(name=title, median_ms=2.0 * scale, spread_ms=0.1, ratio=1.0 * scale),
        native=ModelLatency(name=title, median_ms=0.125 * scale, spread_ms=0.1, ratio=1.0 * scale) if native else None,
        correct=tuple(correct),
    )


def _result(static: list[bool], dynamic: list[bool], *, native: bool = True) -> DemoResult:
    return DemoResult(
        folder=Path("runs/demo"),
        static=_network("static", static, native=native),
        dynamic=_network("DCD", dynamic, scale=2, native=native),
        movement={"layer1": 0.25, "layer2": 0.05},
    )


def test_the_verdict_follows_the_numbers() -> None:
    right, wrong = [True] * 100, [True] * 60 + [False] * 40
    # Of 100 pairs 40 differ: a deviation of 0.49, a tenth of it for the mean, 1.96 of these for the interval.
    ahead = _result(wrong, right).verdict()
    assert "DCD is right on 100.0% and static on 60.0%: +40.0 points, 95 % interval +30.4 to +49.6" in ahead
    assert "DCD is ahead by more than chance would give" in ahead
    assert "static is ahead by more than chance would give" in _result(right, wrong).verdict()


@pytest.mark.parametrize("missed", [0, 1])
def test_a_small_lead_is_called_too_small_to_tell(missed: int) -> None:
    right, nearly = [True] * 100, [False] * missed + [True] * (100 - missed)
    assert "too little to say that one is better" in _result(right, nearly).verdict()


def test_it_says_how_far_kernels_move() -> None:
    expected = "The kernels of its 2 dynamic layers lie 15.0% of their length away from their mean, from 5.0% to 25.0%."
    assert _result([True], [True]).movement_sentence() == expected


def test_without_native_kernels_the_cells_are_empty(tmp_path: Path) -> None:
    result = _result([True], [True], native=False)
    assert [network.cells()[5] for network in result.networks] == ["", ""]
    assert result.ratio_cells()[5] == ""
    write_table(result.networks, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        assert [row["native_ms"] for row in csv.DictReader(file)] == ["", ""]


def test_the_table_has_a_row_a_network_and_their_ratio() -> None:
    result = _result([True] * 9 + [False], [True] * 10)
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(rich_table(result, caption="Latency: here."))
    printed = console.export_text()
    for part in (*COLUMNS, "400,000", "800,000", "4.00 M", "90.00%", "100.00%", "ratio", "x 2.00", "+10.00 pts"):
        assert part in printed
    assert "…" not in printed


def test_the_csv_can_be_computed_with(tmp_path: Path) -> None:
    result = _result([True, False], [True, True])
    write_table(result.networks, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        static, dynamic = csv.DictReader(file)
    assert (float(static["accuracy"]), float(dynamic["accuracy"])) == (0.5, 1.0)
    assert int(dynamic["params"]) == 800_000
    assert dynamic["model"] == "dcd_mobilenetv2_035"
    assert static["test_images"] == "2"
