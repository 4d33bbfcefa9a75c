"""Files with operators for the native kernels, in ONNX Runtime and OpenVINO."""

import ctypes
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from dynaconv import DCDConv2d, convert, deploy
from dynaconv.errors import ExportError
from dynaconv.export import ExportReport, export_onnx, export_openvino, verify
from dynaconv.export.onnx import load_onnx
from dynaconv.export.openvino import load_openvino
from dynaconv.native import BuildError, NativeProgram, extension, library
from dynaconv.native.steps import FORMAT
from tests.helpers import LAYERS
from tests.messages import refuses
from tests.native.test_layers import randomise_heads, rounded

pytestmark = pytest.mark.export
RUNTIMES: dict[str, tuple[Callable[..., ExportReport], Callable[..., Any], str]] = {
    "onnxruntime": (export_onnx, load_onnx, "net.onnx"),
    "openvino": (export_openvino, load_openvino, "net.xml"),
}
both = pytest.mark.parametrize("runtime", RUNTIMES)


class Islands(nn.Module):
    """Two native programs; what joins them is none, nor is the layer between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1), nn.ReLU6(), DCDConv2d(24, 20, 1), nn.ReLU())
        self.between = LAYERS["odconv"](20, 20, 3, padding=1, padding_mode="reflect")
        self.second = nn.Sequential(DCDConv2d(20, 20, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, H, W)`` to ``(B, 20, H / 2, W / 2)``."""
        x = self.first(x)
        return self.second(self.between(x)) + x


class Unused(nn.Module):
    """A part that could run natively is not made use of."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = small()
        self.used = nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, H, W)`` to ``(B, 8, H, W)``."""
        out: Tensor = self.used(x)
        return out


def small() -> nn.Module:
    return randomise_heads(nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1), nn.ReLU6(), DCDConv2d(24, 20, 1), nn.ReLU())).eval()


def written(runtime: str, model: nn.Module, folder: Path, side: int = 32, **options: Any) -> ExportReport:
    export, _, name = RUNTIMES[runtime]
    return export(model, folder / name, torch.rand(1, 3, side, side), native=True, **options)


def operators(report: ExportReport) -> list[str]:
    """Kinds of the operators in an ONNX file."""
    import onnx

    return [node.op_type for node in onnx.load(report.path).graph.node]


@both
def test_a_whole_network_is_one_operator(runtime: str, tmp_path: Path) -> None:
    model = randomise_heads(timm.create_model("dcd_mobilenetv2_035", num_classes=10).eval())
    report = written(runtime, model, tmp_path, side=64)
    assert report.free_axes == ("batch", "height", "width")
    assert [check.shapes for check in report.checks] == [((1, 3, 64, 64),), ((3, 3, 64, 64),), ((3, 3, 96, 128),)]
    assert report.difference <= 1e-5
    assert f'the library dynaconv.native.extension("{runtime}")' in str(report)
    assert report.notes[0] == "native programs: 1; of 52 convolutions 52 are in one."
    if runtime == "onnxruntime":
        assert set(operators(report)) <= {"NativeProgram", "Transpose", "Reshape"}
        assert operators(report).count("NativeProgram") == 1


@both
@pytest.mark.parametrize("family", ["condconv", "dyconv", "odconv", "se", "kernel_warehouse"])
def test_other_families_are_one_operator(runtime: str, family: str, tmp_path: Path) -> None:
    # From the start of the families' own networks an output has 1e-13 or 0 in some, where any error passes, and 20 in
    # others; here all have about 2, and kernels that differ, so that a wrong coefficient shows.
    model = convert(timm.create_model("static_mobilenetv2_035", num_classes=10), family).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1 + 0.03 * torch.randn_like(parameter)
    report = written(runtime, model, tmp_path)
    assert report.notes[0] == "native programs: 1; of 52 convolutions 52 are in one."
    assert report.difference <= 1e-5


def test_openvino_computes_natively_in_float32_whatever_its_own_precision_is(tmp_path: Path) -> None:
    model = small()
    core, network = openvino_model(written("openvino", model, tmp_path).path)
    x = torch.rand(2, 3, 32, 32)
    found = core.compile_model(network, "CPU")([x.numpy()])[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), model(x), rtol=1e-5, atol=1e-5)


@both
@torch.no_grad()
def test_weights_in_bfloat16(runtime: str, tmp_path: Path) -> None:
    """Every other weight is zero, so that the words of two weights are subnormal as float32 numbers."""
    model = small()
    model[2].weight[:, 1::2] = 0
    report = written(runtime, model, tmp_path, precision="bf16")
    assert "native kernels in bf16" in str(report)
    x = torch.rand(2, 3, 32, 32)
    found = RUNTIMES[runtime][1](report.path, library=extension(runtime))(x)
    torch.testing.assert_close(torch.as_tensor(found[0]), rounded(model)(x), rtol=1e-5, atol=1e-5)


@both
@pytest.mark.skipif(library.int8_instruction_set() == "portable", reason="no VNNI instructions")
def test_products_in_int8(runtime: str, tmp_path: Path) -> None:
    model = small()
    report = written(runtime, model, tmp_path, precision="int8")
    assert "native kernels in int8" in str(report)
    assert "of the largest from those of the given one" in str(report)
    x = torch.rand(2, 3, 32, 32)
    found = torch.as_tensor(RUNTIMES[runtime][1](report.path, library=extension(runtime))(x)[0])
    with torch.no_grad():
        torch.testing.assert_close(found, deploy(model, backend="native", precision="int8")(x), rtol=1e-5, atol=1e-5)
        difference = float((found - model(x)).abs().max() / model(x).abs().max())
    assert 1e-5 < difference < 0.1


@both
def test_a_file_in_int8_needs_its_instructions(runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "int8_instruction_set", lambda: "portable")
    with refuses(ExportError, "VNNI"):
        written(runtime, small(), tmp_path, precision="int8")
    assert not any(tmp_path.iterdir())


@both
def test_a_precision_without_native_operators_is_refused(runtime: str, tmp_path: Path) -> None:
    export, _, name = RUNTIMES[runtime]
    for options in ({"precision": "bf16"}, {"precision": "float16", "native": True}):
        with refuses(ExportError, "precision"):
            export(small(), tmp_path / name, torch.rand(1, 3, 32, 32), **options)


@both
@pytest.mark.parametrize("deployed", [False, True])
def test_parts_run_natively_between_others(runtime: str, deployed: bool, tmp_path: Path) -> None:
    model = randomise_heads(Islands()).eval()
    given = deploy(model, backend="native") if deployed else model
    report = written(runtime, given, tmp_path)
    assert report.free_axes == ("batch", "height", "width")
    run = RUNTIMES[runtime][1](report.path, library=extension(runtime))
    checks = verify(run, model, torch.rand(2, 3, 21, 33), runtime=runtime, batches=(1, 2, 7))
    assert max(check.difference for check in checks) <= 1e-5
    if runtime == "onnxruntime":
        assert operators(report).count("NativeProgram") == 2


@both
def test_a_fixed_batch_and_size(runtime: str, tmp_path: Path) -> None:
    report = written(runtime, small(), tmp_path, batch=2, free_size=False)
    assert report.free_axes == ()
    assert report.difference <= 1e-5


@both
def test_without_the_option_a_native_network_is_exported_as_what_it_was(runtime: str, tmp_path: Path) -> None:
    model = small()
    native = deploy(model, backend="native")
    assert isinstance(native, NativeProgram)
    export, load, name = RUNTIMES[runtime]
    report = export(native, tmp_path / name, torch.rand(1, 3, 32, 32))
    assert isinstance(native, NativeProgram)
    checks = verify(load(report.path), model, torch.rand(2, 3, 32, 32), runtime=runtime)
    assert max(check.difference for check in checks) <= 1e-5


@pytest.mark.parametrize("native", [False, True])
def test_hooks_that_a_native_program_was_given_stay(native: bool, tmp_path: Path) -> None:
    network = deploy(nn.Sequential(small(), nn.Identity()), backend="native")
    for module in network.modules():
        if isinstance(module, NativeProgram):
            module.register_forward_hook(lambda module, inputs, output: 2 * output)
    report = export_onnx(network, tmp_path / "net.onnx", torch.rand(1, 3, 32, 32), native=native)
    x = torch.rand(2, 3, 32, 32)
    (found,) = session(report.path).run(None, {"images": x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), network(x), rtol=1e-4, atol=1e-4)
    assert ("NativeProgram" in operators(report)) == native


@both
def test_what_cannot_be_native_is_refused(runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with refuses(ExportError):
        written(runtime, nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval(), tmp_path, side=2)

    with refuses(ExportError, "example"):
        RUNTIMES[runtime][0](small(), tmp_path / RUNTIMES[runtime][2], torch.rand(1, 4, 32, 32), native=True)
    with refuses(ExportError):
        written(runtime, Unused().eval(), tmp_path)

    def no_compiler(which: str) -> Path:
        raise BuildError("the native backend needs a C++ compiler.")

    monkeypatch.setattr("dynaconv.export._native_form.extension", no_compiler)
    with refuses(ExportError, "native=True"):
        written(runtime, small(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_extensions_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong: Any = "tensorrt"
    with refuses(BuildError, "tensorrt"):
        extension(wrong)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refuses(BuildError, "OpenVINO"):
        extension("openvino")


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import numpy as np
runtime, file, library, images, out = sys.argv[1:]
x = np.load(images)
if runtime == "onnxruntime":
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(library)
    found = onnxruntime.InferenceSession(file, options).run(None, {"images": x})[0]
else:
    import openvino
    core = openvino.Core()
    core.add_extension(library)
    found = core.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([x])[0]
np.save(out, found)
"""


@both
def test_neither_torch_nor_dynaconv_is_needed_to_run_it(runtime: str, tmp_path: Path) -> None:
    model = small()
    report = written(runtime, model, tmp_path)
    x = torch.rand(2, 3, 32, 32)
    np.save(tmp_path / "x.npy", x.numpy())
    arguments = [runtime, report.path, extension(runtime), tmp_path / "x.npy", tmp_path / "y.npy"]
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)], check=True, cwd=tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "y.npy")), model(x), rtol=1e-5, atol=1e-5)


def test_an_onnxruntime_without_the_functions_is_refused() -> None:
    """The runtime is a table of functions that has no newer version of the interface than the first."""
    messages: list[bytes] = []
    asked: list[int] = []
    create_status = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)(
        lambda code, message: messages.append(message) or code
    )
    functions = (ctypes.c_void_p * 1)(ctypes.cast(create_status, ctypes.c_void_p))

    def get(version: int) -> int | None:
        asked.append(version)
        return ctypes.addressof(functions) if version == 1 else None

    class Base(ctypes.Structure):
        _fields_ = [
            ("get", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)),
            ("version", ctypes.CFUNCTYPE(ctypes.c_void_p)),
        ]

    text = ctypes.create_string_buffer(b"1.16.3")
    base = Base(Base._fields_[0][1](get), Base._fields_[1][1](lambda: ctypes.addressof(text)))
    register = ctypes.CDLL(str(extension("onnxruntime"))).RegisterCustomOps
    register.restype = ctypes.c_void_p
    assert register(None, ctypes.byref(base))
    assert asked == [17, 1]
    assert messages == [b"dynaconv's operators need ONNX Runtime 1.17 or newer; this is version 1.16.3."]


def session(file: Path, threads: int = 1) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(str(extension("onnxruntime")))
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("opset", "version"), [(18, 9), (21, 10)])
def test_files_are_for_the_oldest_onnxruntime_that_has_the_operators(opset: int, version: int, tmp_path: Path) -> None:
    import onnx

    assert onnx.load(written("onnxruntime", small(), tmp_path, opset=opset).path).ir_version == version


def test_threads_of_onnxruntime_change_nothing(tmp_path: Path) -> None:
    """Enough calls that an operator has counted its threads, from several threads of the caller at once."""
    report = written("onnxruntime", small(), tmp_path)
    x = np.random.default_rng(0).random((3, 3, 32, 32), np.float32)
    want = session(report.path).run(None, {"images": x})[0]
    for threads in (1, 2, 5):
        opened = session(report.path, threads)
        found: list[Any] = []

        def call(opened: Any = opened, found: list[Any] = found) -> None:
            found.extend(opened.run(None, {"images": x})[0] for _ in range(40))

        callers = [threading.Thread(target=call) for _ in range(3)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert len(found) == 120
        assert all(np.array_equal(each, want) for each in found)


def test_no_images_give_no_output(tmp_path: Path) -> None:
    report = written("onnxruntime", small(), tmp_path)
    found = session(report.path).run(None, {"images": np.zeros((0, 3, 32, 32), np.float32)})[0]
    assert found.shape == (0, 20, 16, 16)


def test_damaged_files_are_errors_in_onnxruntime(tmp_path: Path) -> None:
    import onnx

    report = written("onnxruntime", small(), tmp_path)
    x = np.zeros((1, 3, 32, 32), np.float32)

    def damaged(**changes: Any) -> Path:
        model = onnx.load(report.path)
        (node,) = (node for node in model.graph.node if node.op_type == "NativeProgram")
        for attribute in node.attribute:
            if attribute.name in changes:
                attribute.CopyFrom(onnx.helper.make_attribute(attribute.name, changes[attribute.name]))
        if "constants" in changes:
            (constants,) = (each for each in model.graph.initializer if each.name == node.input[1])
            name = constants.name
            constants.CopyFrom(onnx.numpy_helper.from_array(np.zeros(changes["constants"], np.int32), name))
        onnx.save(model, tmp_path / "damaged.onnx")
        return tmp_path / "damaged.onnx"

    steps = list(_attribute(report.path, "steps").ints)
    with pytest.raises(Exception, match=r"written for other native kernels \(format 0\).*export the network again"):
        session(damaged(format=0))
    with pytest.raises(Exception, match="not one of whole steps"):
        session(damaged(steps=steps[:-1]))
    for changes in ({"constants": 16}, {"out_channels": 7}, {"steps": [9, *steps[1:]]}):
        with pytest.raises(Exception, match="the native program is damaged"):
            session(damaged(**changes)).run(None, {"images": x})
    with pytest.raises(Exception, match=r"too small for this network|Invalid"):
        session(report.path).run(None, {"images": np.zeros((1, 3, 0, 32), np.float32)})


def _attribute(file: Path, name: str) -> Any:
    import onnx

    (node,) = (node for node in onnx.load(file).graph.node if node.op_type == "NativeProgram")
    return next(each for each in node.attribute if each.name == name)


def test_images_of_other_channels_are_an_error_where_a_runtime_leaves_them_free(tmp_path: Path) -> None:
    core, model = openvino_model(written("openvino", small(), tmp_path).path)
    model.reshape([-1, -1, -1, -1])
    run = core.compile_model(model, "CPU")
    with pytest.raises(RuntimeError, match="the images have 4 channels; this network takes 3"):
        run([np.zeros((1, 4, 32, 32), np.float32)])


def openvino_model(file: Path) -> tuple[Any, Any]:
    import openvino

    core = openvino.Core()
    core.add_extension(extension("openvino"))
    return core, core.read_model(file)


def test_openvino_knows_the_sizes_that_follow_from_the_steps(tmp_path: Path) -> None:
    _, model = openvino_model(written("openvino", small(), tmp_path).path)
    for images, want in [
        ([-1, 3, 21, -1], [-1, 20, 11, -1]),
        ([(1, 8), 3, 32, 33], [(1, 8), 20, 16, 17]),
        ([2, 3, (8, 64), 64], [2, 20, -1, 32]),
    ]:
        model.reshape(images)
        assert str(model.output().partial_shape) == str(type(model.output().partial_shape)(want))
    with refuses(RuntimeError):
        model.reshape([1, 3, 0, 32])
    network = timm.create_model("dcd_mobilenetv2_035", num_classes=10).eval()
    _, pooled = openvino_model(written("openvino", network, tmp_path, overwrite=True).path)
    assert str(pooled.output().partial_shape) == "[?,10]"


def test_damaged_files_are_errors_in_openvino(tmp_path: Path) -> None:
    report = written("openvino", small(), tmp_path)
    text = report.path.read_text()
    library = extension("openvino")

    def damaged(before: str, after: str) -> Path:
        assert text.count(before) == 1
        report.path.write_text(text.replace(before, after))
        return report.path

    with pytest.raises(RuntimeError, match=r"written for other native kernels \(format 0\).*export the network again"):
        load_openvino(damaged(f'format="{FORMAT}"', 'format="0"'), library=library)
    with pytest.raises(RuntimeError, match="not one of whole steps"):
        load_openvino(damaged('steps="0, ', 'steps="'), library=library)
    with pytest.raises(RuntimeError, match="the native program is damaged"):
        load_openvino(damaged('steps="0, ', 'steps="9, '), library=library)(torch.rand(1, 3, 32, 32))
    with pytest.raises(RuntimeError, match="NativeProgram"):
        load_openvino(damaged(f'format="{FORMAT}"', f'format="{FORMAT}"'))
