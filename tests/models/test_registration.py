"""Importing `dynaconv.models` registers its networks with timm; importing `dynaconv` imports nothing."""

import subprocess
import sys

import pytest


def run(code: str) -> str:
    """Run `code` in a fresh interpreter where warnings are errors; return what it prints."""
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("imports", ["import dynaconv.models, timm", "import timm, dynaconv.models"])
def test_networks_are_registered_in_either_order(imports: str) -> None:
    create = "timm.create_model('dcd_mobilenetv2_100', device='meta').num_features"
    assert run(f"{imports}; print(len(timm.list_models('dcd_mobilenetv2_*')), {create})") == "10 1280"


def test_timm_alone_knows_nothing_of_them() -> None:
    assert run("import dynaconv, timm; print(timm.list_models('dcd_*'))") == "[]"
