from __future__ import annotations

import csv
import io
from pathlib import Path

from rich.console import Console

from dynaconv.demo.result import COLUMNS, DemoResult, NetworkResult, rich_table, write_table


def _network(title: str, correct: list[bool], *, scale: int = 1) -> NetworkResult:
    return NetworkResult(
        title=title,
        model=f"{title.lower()}_mobilenetv2_035",
        params=400_000 * scale,
        macs=4_000_000 * scale,
        train_seconds=20.0 * scale,
        latency_ms=2.0 * scale,
        latency_ratio=1.0 * scale,
        correct=tuple(correct),
    )


def _result(static: list[bool], dynamic: list[bool]) -> DemoResult:
    return DemoResult(
        folder=Path("runs/demo"), static=_network("static", static), dynamic=_network("DCD", dynamic, scale=2)
    )


def test_the_verdict_follows_the_numbers() -> None:
    right, wrong = [True] * 100, [True] * 60 + [False] * 40
    assert "static is ahead by 40 pictures, more than chance would give" in _result(right, wrong).verdict()
    assert "DCD is ahead by 40 pictures, more than chance would give" in _result(wrong, right).verdict()
    assert "They are level." in _result(right, right).verdict()


def test_a_lead_of_few_pictures_is_called_too_small_to_tell() -> None:
    right, nearly = [True] * 100, [False] + [True] * 99
    verdict = _result(right, nearly).verdict()
    assert "static is ahead by 1 picture, which is too few to say that it is better" in verdict
    assert "DCD is right on 99.0% and static on 100.0%" in verdict


def test_the_table_has_a_row_a_network_and_their_ratio() -> None:
    result = _result([True] * 9 + [False], [True] * 10)
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(rich_table(result, caption="Latency: here."))
    printed = console.export_text()
    for part in (*COLUMNS, "400,000", "800,000", "4.00 M", "90.00%", "100.00%", "DCD / static", "x 2.00", "+10.00 pts"):
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
