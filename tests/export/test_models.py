"""Every registered DCD network, by way of the benchmark that writes docs/export-models.md."""

import runpy
from pathlib import Path
from typing import Any

import pytest

timm = pytest.importorskip("timm")

pytestmark = pytest.mark.export

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return runpy.run_path(str(BENCHMARKS / "export_models.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", timm.list_models("dcd_*"))
def test_every_dcd_network_computes_the_same_in_both_runtimes(name: str, benchmark: dict[str, Any]) -> None:
    row = benchmark["export_and_check"](name)
    assert "failure" not in row, row["failure"]
    assert row["free"] == ["batch"]
    for checks in row["checks"].values():
        assert [check["batch"] for check in checks] == [1, 3, 16]
        assert all(check["difference"] <= 1e-4 for check in checks)


def test_the_page_shows_failures_and_what_is_missing(benchmark: dict[str, Any]) -> None:
    checks = [{"batch": batch, "difference": 2e-6, "redrawn": batch == 16} for batch in (1, 3, 16)]
    passed = {
        "name": "dcd_a",
        "params": 1234,
        "bytes": {"ONNX Runtime": 2_000_000, "OpenVINO": 3_000_000},
        "checks": {"ONNX Runtime": checks, "OpenVINO": checks},
    }
    failed = {"name": "dcd_b", "params": 99, "failure": "differs by 1."}
    text = "\n\n".join(benchmark["page"]([passed, failed], ["dcd_a", "dcd_b", "dcd_c"]))
    assert "1 of 2 networks passed" in text
    assert "In 2 of 6 checks" in text
    assert "| `dcd_b` | 99 | failed: differs by 1. |" in text
    assert "Not run: `dcd_c`." in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {11}
