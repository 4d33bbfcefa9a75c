"""Ctrl+C during an export, in whatever library: exit code 130, no new file, and one that was there is as it was."""

import contextlib
import ctypes
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dynaconv.export.executorch
import dynaconv.export.litert
import dynaconv.export.target
from dynaconv.cli import main
from dynaconv.export import export_aoti, export_onnx, export_openvino, export_program
from dynaconv.export.executorch import export_executorch
from dynaconv.export.litert import export_litert
from tests.export.int8_networks import batches, stripes, tiny_network

pytestmark = pytest.mark.export
IMAGES = torch.rand(2, 1, 12, 12)


def int8(runtime: str) -> Callable[..., object]:
    def quantize(model: nn.Module, path: Path, images: Tensor, **options: Any) -> object:
        module = importlib.import_module(f"dynaconv.export.int8_{runtime}")
        return getattr(module, f"quantize_{runtime}")(model, path, batches(*stripes(8, 1)), **options)

    return quantize


# OpenVINO's runtime and NNCF run in a process of their own, which ignores the signal.
_IN_A_CHILD = "dynaconv.export._child.Child.__call__"
FORMATS: dict[str, tuple[Callable[..., object], tuple[str, ...], tuple[str, ...]]] = {
    "onnx": (
        export_onnx,
        (".onnx",),
        (
            "torch.export.export",
            "torch.onnx.export",
            "onnxscript.optimizer.fold_constants",
            "onnx.checker.check_model",
            "onnxruntime.InferenceSession",
            "onnxruntime.InferenceSession.run",
        ),
    ),
    "openvino": (
        export_openvino,
        (".xml", ".bin"),
        ("torch.onnx.export", "openvino.convert_model", "openvino.save_model", _IN_A_CHILD),
    ),
    "pt2": (export_program, (".pt2",), ("torch.export.export", "torch.export.save", "torch.export.load")),
    "aoti": (
        export_aoti,
        (".pt2",),
        ("torch._inductor.aoti_compile_and_package", "torch._inductor.aoti_load_package"),
    ),
    "int8 onnx": (int8("onnx"), (".onnx",), ("torch.onnx.export", "onnxruntime.quantization.quantize_static")),
    "int8 openvino": (
        int8("openvino"),
        (".xml", ".bin"),
        ("torch.onnx.export", _IN_A_CHILD),
    ),
}
CASES = [(form, place) for form in FORMATS for place in FORMATS[form][2]]


@pytest.fixture(autouse=True)
def _no_signal_stack() -> None:
    """Let signals use the ordinary stack.

    pytest's faulthandler has them use one of its own, which is too small for the registers of processors with AMX once
    OpenVINO has asked for those: the process would end with the first signal.
    """

    class Stack(ctypes.Structure):
        _fields_ = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

    disabled = 2
    assert ctypes.CDLL(None).sigaltstack(ctypes.byref(Stack(None, disabled, 0)), None) == 0


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def turned(work: Callable[..., Any]) -> Callable[..., Any]:
    """Turns the interrupt into an error, as code does that C++ calls back."""

    def call(*args: Any, **options: Any) -> Any:
        try:
            press()
        except KeyboardInterrupt:
            raise RuntimeError("what(): the compiler failed") from None
        raise AssertionError

    return call


def swallowed(work: Callable[..., Any]) -> Callable[..., Any]:
    """Loses the interrupt, and goes on."""

    def call(*args: Any, **options: Any) -> Any:
        with contextlib.suppress(KeyboardInterrupt):
            press()
        return work(*args, **options)

    return call


def patch(monkeypatch: pytest.MonkeyPatch, place: str, make: Callable[[Any], Any]) -> list[int]:
    """Replace a library's function; the calls that it gets."""
    module, _, name = place.rpartition(".")
    try:
        owner: Any = importlib.import_module(module)
    except ModuleNotFoundError:
        outer, _, kind = module.rpartition(".")
        owner = getattr(importlib.import_module(outer), kind)
    calls: list[int] = []
    replaced = make(getattr(owner, name))

    def call(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return replaced(*args, **options)

    monkeypatch.setattr(owner, name, call)
    return calls


def assert_interrupted(tmp_path: Path, export: Callable[..., object], suffixes: tuple[str, ...]) -> None:
    old = [tmp_path / f"net{suffix}" for suffix in suffixes]
    for file in old:
        file.write_text(f"old {file.suffix}")
    with pytest.raises(KeyboardInterrupt):
        export(tiny_network().eval(), old[0], IMAGES, overwrite=True)
    assert sorted(tmp_path.iterdir()) == sorted(old)
    assert [file.read_text() for file in old] == [f"old {file.suffix}" for file in old]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def slow(form: str, place: str, make: Callable[[Any], Any]) -> bool:
    """Whether a case compiles, or goes on to the end of a slow export."""
    return place.endswith("aoti_load_package") or (make is swallowed and form in ("aoti", "openvino", "int8 openvino"))


@pytest.mark.parametrize(
    ("form", "place", "make"),
    [
        pytest.param(
            form,
            place,
            make,
            id=f"{form}-{place}-{make.__name__}",
            marks=[pytest.mark.slow] if slow(form, place, make) else [],
        )
        for form, place in CASES
        for make in (turned, swallowed)
    ],
)
def test_an_interrupt_in_a_library_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, place: str, make: Callable[[Any], Any]
) -> None:
    if form == "int8 openvino":
        pytest.importorskip("nncf")
    export, suffixes, _ = FORMATS[form]
    calls = patch(monkeypatch, place, make)
    assert_interrupted(tmp_path, export, suffixes)
    # Not once more, to name a layer or with another choice of free axes.
    assert len(calls) == 1 or make is swallowed


@pytest.mark.parametrize("make", [turned, swallowed])
@pytest.mark.parametrize(
    ("export", "suffix", "module", "places"),
    [
        (export_executorch, ".pte", dynaconv.export.executorch, ("_traced", "_lower", "_runner")),
        (export_litert, ".tflite", dynaconv.export.litert, ("_convert", "_runner")),
    ],
)
def test_the_formats_of_phones_leave_no_file_either(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    export: Callable[..., object],
    suffix: str,
    module: Any,
    places: tuple[str, ...],
    make: Callable[[Any], Any],
) -> None:
    monkeypatch.setattr(module, "require", lambda *_, **__: [])
    monkeypatch.setattr(module, "versioned", lambda *_: "runtime")
    network = tiny_network().eval()

    class Converted:
        def export(self, file: str) -> None:
            Path(file).write_text("written")

    # What stands in for tools that need not be installed.
    does: dict[str, Callable[..., Any]] = {
        "_convert": lambda *_: Converted(),
        "_lower": lambda *_: (b"written", {}),
        "_runner": lambda *_: lambda *inputs: [network(*inputs)],
        "_traced": lambda *_: None,
    }
    for place in places:
        with monkeypatch.context() as inner:
            for other in does:
                if hasattr(module, other):
                    inner.setattr(module, other, make(does[other]) if other == place else does[other])
            assert_interrupted(tmp_path, lambda _, *rest, **options: export(network, *rest, **options), (suffix,))


def test_files_that_belong_together_are_moved_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        press()
        return replace(self, target)

    network = tiny_network().eval()
    export_openvino(network, tmp_path / "net.xml", IMAGES, free_size=False)
    size = (tmp_path / "net.bin").stat().st_size
    for file in tmp_path.iterdir():
        file.write_text("old")
    move = dynaconv.export.target._move

    def moving(*args: Any) -> None:
        with monkeypatch.context() as inner:
            inner.setattr(Path, "replace", interrupted)
            move(*args)

    monkeypatch.setattr(dynaconv.export.target, "_move", moving)
    with pytest.raises(KeyboardInterrupt):
        export_openvino(network, tmp_path / "net.xml", IMAGES, free_size=False, overwrite=True)
    assert (tmp_path / "net.bin").stat().st_size == size
    assert (tmp_path / "net.xml").read_text().startswith("<?xml")


COMMAND = ["export", "static_resnet10", "--size", "1x16x16", "--fixed-size", "--format"]


def test_the_command_exits_with_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    patch(monkeypatch, "torch.export.export", turned)
    assert main([*COMMAND, "pt2", "-o", str(tmp_path / "net.pt2")]) == 130
    assert capsys.readouterr().err == "dynaconv: interrupted.\n"
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("form", ["onnx", "openvino", "pt2", "aoti"])
def test_ctrl_c_ends_an_export(tmp_path: Path, form: str, after: float) -> None:
    out = tmp_path / f"net{FORMATS[form][1][0]}"
    out.write_text("old")
    command = [sys.executable, "-m", "dynaconv", *COMMAND, form, "-o", str(out), "--overwrite"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    while len(list(tmp_path.iterdir())) == 1:
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(after)
    # As a terminal does, to all processes.
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=120)[1].decode()
    if out.read_bytes() != b"old":
        # Its end is no part of the export any more.
        pytest.skip("the export was faster")
    assert process.returncode == 130, error
    assert error.endswith("dynaconv: interrupted.\n")
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]
