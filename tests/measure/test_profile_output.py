"""A profile's tables and files, and its latency."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tests.messages import refuses
from torch import Tensor, nn

from dynaconv import DCDConv2d
from dynaconv.measure.layer_latency import measure_layer_latency
from dynaconv.measure.profile import Profile, profile
from dynaconv.measure.profile_table import comparison_table, format_number

SUMS = ("params", "macs", "published_macs", "output_bytes")


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.dynamic = DCDConv2d(8, 8, 1)
        self.idle = nn.Identity()
        self.unused = nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.ones(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale @ self.idle(self.dynamic(self.stem(x))).flatten(2)


@pytest.fixture
def found() -> Profile:
    return profile(Network(), (2, 3, 8, 8), latency=True, rounds=2)


def printed(table: object, width: int = 200) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_the_totals_are_the_sums_in_the_dictionary_and_the_file(found: Profile, tmp_path: Path) -> None:
    facts = found.to_dict()
    for key in SUMS:
        rows = [layer[key] for layer in facts["layers"]] + [facts["outside"].get(key, 0)]
        assert facts[key] == sum(rows), key
    assert facts["outside"]["params"] == 64
    assert facts["outside"]["macs"] == facts["outside"]["published_macs"] == 2 * 8 * 8 * 36
    assert facts["latency_ms"] == pytest.approx(
        sum(layer["latency_ms"] for layer in facts["layers"]) + facts["outside"]["latency_ms"]
    )
    found.to_json(tmp_path / "profile.json")
    assert json.loads((tmp_path / "profile.json").read_text()) == json.loads(json.dumps(facts))


def test_the_csv_file_holds_every_layer_and_the_totals(found: Profile, tmp_path: Path) -> None:
    found.to_csv(str(tmp_path / "profile.csv"))
    with (tmp_path / "profile.csv").open(newline="") as file:
        *rows, total = csv.DictReader(file)
    assert [row["name"] for row in rows] == ["stem", "dynamic", "idle", "unused", "(outside any layer)"]
    assert total["name"] == "total"
    for key in SUMS:
        assert int(total[key]) == sum(int(row[key] or 0) for row in rows)
    assert rows[0]["output_shape"] == "2x8x6x6"
    assert rows[1]["algorithm"] in ("kernel", "factored")
    assert int(total["peak_bytes"]) == found.peak_bytes


def test_without_latency_there_is_none(tmp_path: Path) -> None:
    found = profile(Network(), (3, 8, 8))
    assert found.latency_ms is None
    assert found.conditions is None
    assert {layer.latency_ms for layer in found.layers} == {None}
    assert " ms " not in printed(found.table())


def test_the_table_shows_layers_totals_and_conditions(found: Profile) -> None:
    text = printed(found.table())
    assert "DCDConv2d" in text
    assert "(outside any layer)" in text
    assert "idle" not in text.split("total")[0]
    assert "1 layer without work or parameters left out" in text
    assert f"torch {torch.__version__}" in text
    assert format_number(found.published_macs) in text.split("total")[1]


def test_a_narrow_table_leaves_columns_out_and_says_so(found: Profile) -> None:
    text = printed(found.table(80), 80)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "MAdds run" in text
    assert "No room for" in text
    assert "…" not in text
    assert "No room for" not in printed(found.table(200))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.000k"),
        (12_345, "12.35k"),
        (300_774_272, "300.8M"),
        (1_814_073_344, "1.814G"),
        (999_960, "1.000M"),
        (-1500, "-1.500k"),
    ],
)
def test_short_numbers_have_four_digits(number: int, text: str) -> None:
    assert format_number(number) == text


def test_two_networks_are_compared_by_their_ratios() -> None:
    profiles = {
        "large": profile(nn.Conv2d(4, 8, 1, bias=False), (4, 4, 4)),
        "small": profile(nn.Conv2d(4, 4, 1, bias=False), (4, 4, 4)),
    }
    text = printed(comparison_table(profiles, {"large": 3.0, "small": 2.0}))
    lines = {line.split("  ")[0].strip(): line.split() for line in text.splitlines() if line.strip()}
    assert lines["parameters"][-3:] == ["32", "16", "2.000"]
    assert lines["MAdds run"][-3:] == ["512", "256", "2.000"]
    assert lines["latency in ms"][-3:] == ["3.00", "2.00", "1.500"]


def test_latency_alternates_and_takes_the_median() -> None:
    passes: list[bool] = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    model.register_forward_pre_hook(lambda module, args: passes.append(bool(model[1]._forward_hooks)))
    ticks = iter(range(10_000))
    names = {model[0]: "0", model[1]: "1"}
    found = measure_layer_latency(
        model, torch.rand(1, 4), names, rounds=3, warmup=1, clock=lambda: next(ticks) * 1e-3 * 2
    )
    assert passes == [True, False, False, True, True, False, False, True]
    # Every reading of this clock is 2 ms after the one before.
    assert found.total_ms == pytest.approx(2)
    assert found.layers_ms == pytest.approx({"0": 2, "1": 2})
    assert "batch 1, 4, cpu, 1 thread," in found.conditions
    assert "median of 3 alternating rounds" in found.conditions


def test_latency_refuses_what_it_cannot_measure() -> None:
    with refuses(ValueError, "rounds"):
        profile(nn.Conv2d(3, 4, 1), (3, 4, 4), latency=True, rounds=0)
    with refuses(ValueError):
        profile(nn.Conv2d(3, 4, 1, device="meta"), (3, 4, 4), latency=True)
