"""Native programs in files: one operator, which the extension of a runtime computes by the compiled kernels."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.conversion.select import is_convolution
from dynaconv.deployment import deploy
from dynaconv.errors import ExportError
from dynaconv.export._dcd_form import RuntimeDCD
from dynaconv.export.capture import Capture
from dynaconv.export.packages import require
from dynaconv.native import BuildError, NativeError, NativeProgram, ready
from dynaconv.native.extension import DOMAIN, OPERATOR, Runtime, extension
from dynaconv.native.steps import FORMAT

_NONE = "no part of this network runs natively (docs/native.md says what does); leave `native` out."
_OLDEST_IR, _OLDEST_OPSET = 9, 20
"""The version of ONNX files that the oldest ONNX Runtime with such operators, 1.17, reads, and its last opset."""


def checked_extension(runtime: Runtime) -> Path:
    """The library for a runtime.

    Raises:
        ExportError: It, or the library for torch, cannot be compiled or run here.
    """
    try:
        library, runs = extension(runtime), ready()
    except (BuildError, NativeError) as error:
        raise ExportError(f"`native=True` needs the native kernels: {error}") from error
    if not runs:
        raise ExportError("`native=True` needs the native kernels, which do not run here.")
    return library


def in_native_form(frozen: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """A copy of a frozen network that runs natively as far as it can.

    Raises:
        ExportError: No part of it can.
    """
    network = deploy(frozen, example=inputs, backend="native")
    if not any(isinstance(module, NativeProgram) for module in network.modules()):
        raise ExportError(_NONE)
    return network


def native_notes(method: str, runtime: Runtime, recorded: Capture) -> tuple[str, ...]:
    """What became native, and what the user of a file has to do, for the report.

    Raises:
        ExportError: Nothing did, of what the network makes use of.
    """
    operator: Any = torch.ops.dynaconv.native_program.default
    count = sum(node.target == operator for node in recorded.program.graph.nodes)
    if not count:
        raise ExportError(_NONE)
    modules = set(recorded.model.modules())
    inside = {part for module in modules if isinstance(module, NativeProgram) for part in module.modules()}
    within, left = (sum(_is_layer(module) for module in part) for part in (inside, modules - inside))
    return (
        f"native programs: {count}; of {within + left} convolutions {within} are in one.",
        f'to open it, give {method} the library dynaconv.native.extension("{runtime}").',
    )


def _is_layer(module: nn.Module) -> bool:
    return is_convolution(module) or isinstance(module, RuntimeDCD)


def translation() -> dict[Callable[..., Any], Callable[..., Any]]:
    """How PyTorch's exporter writes the operator of native programs."""
    defs, values = require("onnx.defs", "onnxscript.values", what="ONNX")
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
    (plain,) = require("onnxscript", what="ONNX")

    def native_program(x: Any, constants: Any, steps: Any, out_channels: int, sizes: Sequence[int]) -> Any:
        # The sizes of images follow from the steps.
        rows = operator(x, constants, steps, out_channels=out_channels)
        return plain.opset18.Transpose(rows, perm=[0, 3, 1, 2])

    overload: Any = torch.ops.dynaconv.native_program.default
    return {overload: native_program}


def settle_programs(model: Any, opset: int) -> None:
    """Give each native program of an `onnx_ir` model its steps, and their format, as attributes.

    The file is also written for the oldest ONNX Runtime that has such operators, where its operators are old enough.
    """
    if opset <= _OLDEST_OPSET:
        model.ir_version = _OLDEST_IR
    ir, passes = require("onnx_ir", "onnx_ir.passes.common", what="ONNX")
    for node in model.graph:
        if (node.domain, node.op_type) == (DOMAIN, OPERATOR):
            steps = ir.convenience.get_const_tensor(node.inputs[2]).numpy()
            node.attributes["steps"] = ir.AttrInt64s("steps", [int(each) for each in steps])
            node.attributes["format"] = ir.AttrInt64("format", FORMAT)
            node.resize_inputs(2)
    passes.RemoveUnusedNodesPass()(model)


def openvino_reader(library: Path) -> list[Any]:
    """What lets OpenVINO read a native program from an ONNX file."""
    onnx, factories = require("openvino.frontend.onnx", "openvino.utils.node_factory", what="OpenVINO's files")
    factory = factories.NodeFactory()
    factory.add_extension(library)

    def read(node: Any) -> Any:
        attributes = {name: node.get_attribute(name) for name in ("format", "out_channels")}
        attributes["steps"] = [int(each) for each in node.get_attribute("steps")]
        return factory.create(OPERATOR, [node.get_input(0), node.get_input(1)], attributes).outputs()

    return [onnx.ConversionExtension(OPERATOR, DOMAIN, read)]
