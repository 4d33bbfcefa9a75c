"""Writes native programs to files, each as one operator that an extension of the runtime computes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.conversion.select import is_convolution
from dynaconv.deployment import deploy
from dynaconv.deployment.backends import Precision
from dynaconv.errors import ExportError
from dynaconv.export.capture import Capture
from dynaconv.export.packages import require
from dynaconv.native import BuildError, NativeError, NativeProgram, library, ready
from dynaconv.native.extension import DOMAIN, OPERATOR, Runtime, extension
from dynaconv.native.steps import FORMAT

_NOTHING_NATIVE = (
    "the native kernels support no part of this network (docs/native.md lists what they support); leave `native` out."
)
_OLDEST_IR, _OLDEST_OPSET = 9, 20
"""IR version and latest opset of ONNX Runtime 1.17, the oldest version that supports such operators."""


def checked_extension(runtime: Runtime) -> Path:
    """Return the path of the extension library for a runtime.

    Raises:
        ExportError: This library, or the one for torch, cannot be compiled or run on this machine.
    """
    try:
        library, runs = extension(runtime), ready()
    except (BuildError, NativeError) as error:
        raise ExportError(f"`native=True` needs the native kernels: {error}") from error
    if not runs:
        raise ExportError("`native=True` needs the native kernels, which do not run here; leave `native` out.")
    return library


def in_native_form(frozen: nn.Module, inputs: tuple[Tensor, ...], precision: Precision) -> nn.Module:
    """Return a copy of a frozen network in which native programs replace every part that the native kernels support.

    Their weights have the given precision, see `dynaconv.deploy`.

    Raises:
        ExportError: The native kernels support no part of the network, or this processor has no instructions for the
            precision.
    """
    if precision == "int8" and library.int8_instruction_set() == "portable":
        raise ExportError("native kernels in int8 need a processor with VNNI; write the file on one, or in 'bf16'.")
    network = deploy(frozen, example=inputs, backend="native", precision=precision)
    if not any(isinstance(module, NativeProgram) for module in network.modules()):
        raise ExportError(_NOTHING_NATIVE)
    return network


def native_notes(method: str, runtime: Runtime, captured: Capture) -> tuple[str, ...]:
    """Return the report's notes: how many layers are in native programs, and how to load the extension library.

    Raises:
        ExportError: The traced network calls no native program.
    """
    operator: Any = torch.ops.dynaconv.native_program.default
    count = sum(node.target == operator for node in captured.program.graph.nodes)
    if not count:
        raise ExportError(_NOTHING_NATIVE)
    modules = set(captured.model.modules())
    inside = {part for module in modules if isinstance(module, NativeProgram) for part in module.modules()}
    native, other = (sum(map(is_convolution, part)) for part in (inside, modules - inside))
    return (
        f"native programs: {count}; of {native + other} convolutions {native} are in one.",
        f'to load the file, pass the library dynaconv.native.extension("{runtime}") to {method}.',
    )


def native_translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the translation table with which PyTorch's ONNX exporter writes native programs."""
    defs, values = require("onnx.defs", "onnxscript.values", needed_by="ONNX export")
    schema = defs.OpSchema
    operator = values.Op(
        values.Opset(DOMAIN, 1),
        OPERATOR,
        schema(
            OPERATOR,
            DOMAIN,
            1,
            inputs=[
                schema.FormalParameter("x", "tensor(float)"),
                schema.FormalParameter("constants", "tensor(float)"),
                schema.FormalParameter("steps", "tensor(int64)"),
            ],
            outputs=[schema.FormalParameter("y", "tensor(float)")],
            attributes=[
                schema.Attribute("out_channels", schema.AttrType.INT, required=True),
            ],
        ),
    )
    (onnxscript,) = require("onnxscript", needed_by="ONNX export")

    def native_program(x: Any, constants: Any, steps: Any, out_channels: int, sizes: Sequence[int]) -> Any:
        # The operator computes the image sizes from the steps, so `sizes` is not written.
        channels_last = operator(x, constants, steps, out_channels=out_channels)
        return onnxscript.opset18.Transpose(channels_last, perm=[0, 3, 1, 2])

    overload: Any = torch.ops.dynaconv.native_program.default
    return {overload: native_program}


def set_program_attributes(model: Any, opset: int) -> None:
    """Turn the steps of each native program in an `onnx_ir` model into an attribute, and add their format as another.

    Its constants, which hold other bits than those of float32 too, become int32: runtimes change some float32 numbers.

    If ``opset`` allows it, also set the IR version so that ONNX Runtime 1.17 can load the file.
    """
    if opset <= _OLDEST_OPSET:
        model.ir_version = _OLDEST_IR
    ir, passes = require("onnx_ir", "onnx_ir.passes.common", needed_by="ONNX export")
    for node in model.graph:
        if (node.domain, node.op_type) == (DOMAIN, OPERATOR):
            steps = ir.convenience.get_const_tensor(node.inputs[2]).numpy()
            node.attributes["steps"] = ir.AttrInt64s("steps", [int(each) for each in steps])
            node.attributes["format"] = ir.AttrInt64("format", FORMAT)
            node.resize_inputs(2)
            constants = node.inputs[1]
            words = ir.convenience.get_const_tensor(constants).numpy().view("int32")
            constants.const_value = ir.tensor(words, name=constants.name)
            constants.dtype = ir.DataType.INT32
    passes.RemoveUnusedNodesPass()(model)


def conversion_extensions(library: Path) -> list[Any]:
    """Return the extensions with which OpenVINO converts native programs from an ONNX file."""
    onnx, factories = require("openvino.frontend.onnx", "openvino.utils.node_factory", needed_by="OpenVINO export")
    factory = factories.NodeFactory()
    factory.add_extension(library)

    def read(node: Any) -> Any:
        attributes = {name: node.get_attribute(name) for name in ("format", "out_channels")}
        attributes["steps"] = [int(each) for each in node.get_attribute("steps")]
        return factory.create(OPERATOR, [node.get_input(0), node.get_input(1)], attributes).outputs()

    return [onnx.ConversionExtension(OPERATOR, DOMAIN, read)]
