"""Foreign code that crashes ends a process of its own, and is a sentence in this one."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dynaconv.errors import ExportError
from dynaconv.export import export_openvino
from dynaconv.export._child import Child, ChildError
from dynaconv.export.int8_openvino import quantize_openvino
from dynaconv.families import DCDConv2d
from tests.export.child_work import adder, dying, exiting, forking, odd, unopenable, unrunnable
from tests.messages import refuses

CRASHES = ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"]
IMAGES = torch.rand(2, 3, 16, 16)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), DCDConv2d(8, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_a_child_computes_and_raises(capfd: pytest.CaptureFixture[str]) -> None:
    child = Child(adder, 3)
    assert (child(1), child(1, 2)) == (4, 6)
    with pytest.raises(ExportError, match=r"^nothing to add\.$"):
        child()
    assert child(5) == 8
    assert capfd.readouterr() == ("", "")
    with pytest.raises(RuntimeError, match=r"^1 and 2"):
        Child(odd)


def test_a_child_ends_with_its_object() -> None:
    child = Child(adder, 3)
    process = child._process
    del child
    assert process.returncode is not None


def test_a_process_that_a_child_forked_keeps_nobody_waiting() -> None:
    start, child = time.monotonic(), Child(forking, "")
    child()
    del child
    crashing = Child(forking, "SIGSEGV")
    with pytest.raises(ChildError, match="SIGSEGV"):
        crashing()
    del crashing
    assert time.monotonic() - start < 50


@pytest.mark.parametrize("name", [*CRASHES, "SIGKILL", "SIGTERM"])
def test_the_signal_that_ended_a_child_is_named(name: str) -> None:
    child = Child(dying, name)
    with refuses(ChildError, name):
        child()
    with refuses(ChildError, name):
        child()


def test_an_exit_is_an_error_too() -> None:
    with refuses(ChildError):
        Child(exiting)


@pytest.mark.export
@pytest.mark.parametrize("make", [unopenable, unrunnable])
def test_a_crash_of_openvino_is_a_refused_export(
    make: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynaconv.export._openvino_run.load", make)
    with refuses(ExportError, "OpenVINO", "SIGSEGV"):
        export_openvino(network(), tmp_path / "net.xml", IMAGES)
    assert not list(tmp_path.iterdir())


@pytest.mark.export
def test_a_crash_of_nncf_is_a_refused_quantisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynaconv.export.int8_openvino._quantizer", unrunnable)
    with refuses(ExportError):
        quantize_openvino(network(), tmp_path / "net.xml", [IMAGES])
    assert not list(tmp_path.iterdir())


@pytest.mark.export
def test_a_processor_for_which_openvino_crashes_ends_no_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "net.xml"
    export_openvino(network(), file, IMAGES, rewrite=False)
    # OpenVINO 2026.4 computes a layer norm by instructions that were taken from it, where the processor has AVX-512.
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    for write in (
        lambda: export_openvino(network(), tmp_path / "again.xml", IMAGES),
        lambda: quantize_openvino(file, tmp_path / "int8.xml", [IMAGES]),
    ):
        assert re.search(r"^$|the process that it ran in crashed with SIG", _refusal(write))


def _refusal(write: Callable[[], object]) -> str:
    """Why it is refused; nothing where it is not."""
    try:
        write()
    except ExportError as error:
        return str(error)
    return ""
