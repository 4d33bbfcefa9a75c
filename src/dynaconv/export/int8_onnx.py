"""Exports int8 networks for ONNX Runtime."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dynaconv.errors import ExportError
from dynaconv.export._sample_loop import loop_file, write_one_sample
from dynaconv.export.image_info import ImageInfo
from dynaconv.export.int8 import (
    Int8Backend,
    Int8Options,
    Quantized,
    check_no_loop,
    check_takes_floats,
    one_by_one,
    quantize_with,
)
from dynaconv.export.int8_branch import GraphNode, dynamic_nodes, named_nodes
from dynaconv.export.int8_images import Shape
from dynaconv.export.int8_output import suppressed_output
from dynaconv.export.int8_report import Branch, Int8Report
from dynaconv.export.onnx import export_onnx, load_onnx
from dynaconv.export.packages import require, versioned

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_KINDS = {
    "Shape": "shape",
    "Size": "shape",
    "GlobalAveragePool": "pool",
    "Mul": "product",
    **dict.fromkeys(_PRODUCTS, "product"),
}
_CHEAP_IN_INT8 = ("Add", "Clip", "GlobalAveragePool", "Relu")
"""Operators between products that ONNX Runtime does in int8, or as part of the operator before."""


def quantize_onnx(
    model: nn.Module | str | Path,
    path: str | Path,
    calibration: Iterable[Any],
    *,
    subset_size: int = 300,
    ignored: Sequence[str] = (),
    branch: Branch = "float",
    evaluate: Iterable[Any] | None = None,
    max_drop: float | None = None,
    reduce_range: bool = False,
    info: ImageInfo | None = None,
    overwrite: bool = False,
) -> Int8Report:
    """Write an int8 network for ONNX Runtime, with value ranges from a few training images.

    Weights become int8, with one scale per output channel. Activations become uint8, with one scale and zero point per
    tensor, which cover the smallest to the largest observed value. The graph has pairs of QuantizeLinear and
    DequantizeLinear. W0, Q, depthwise and ordinary convolutions and the classifier become int8. Operations that compute
    the coefficients of a dynamic kernel, and those that multiply features with them, stay in float32: they are a small
    part of the work, and int8 makes them slower (docs/int8.md has the measurements).

    Args:
        model: A network, or an ``*.onnx`` file that `export_onnx` wrote.
        path: The file to write, ``*.onnx``.
        calibration: Batches ``(B, C, H, W)`` of training images, normalised as in training, or pairs of such a batch
            and labels, as a data loader gives them. Do not use test images.
        subset_size: Largest number of images to use.
        ignored: Shell patterns of operations to keep in float32, such as ``blocks.0.*``; each is compared with the name
            of an operation and the names of its weights and outputs.
        branch: ``"int8"`` quantises the dynamic branches too, for a smaller file.
        evaluate: Batches of images and labels, on which the accuracy of both networks is measured in ONNX Runtime.
        max_drop: Raise an error if more percentage points of accuracy than this are lost.
        reduce_range: Quantise weights to 7 bits. On x86 processors with AVX2 or AVX-512 but no VNNI, sums of two
            products of 8-bit numbers can saturate in 16 bits.
        info: As for `export_onnx`, of a network; the int8 file of a file has that file's description.
        overwrite: Replace an existing file.

    Returns:
        A report with sizes, accuracy, error, and the number of int8 operations.

    Raises:
        ExportError: A package is missing, the path cannot be used, a loader gives no images or unsuitable ones, outputs
            are not finite, or the loss of accuracy exceeds ``max_drop``. No new file is left; an existing file does not
            change.
    """
    require("onnx", "onnxruntime", extra="int8", needed_by="quantize_onnx")
    options = Int8Options(
        subset_size=subset_size,
        ignored=ignored,
        branch=branch,
        max_drop=max_drop,
        evaluate=evaluate,
        overwrite=overwrite,
    )

    def quantize(source: Path, file: Path, images: list[Tensor], options: Int8Options) -> Quantized:
        return _quantize(source, file, images, options, reduce_range)

    runtime = versioned("onnxruntime", "ONNX Runtime")
    backend = Int8Backend(
        runtime=runtime,
        tool=runtime,
        sources=(".onnx",),
        suffix=".onnx",
        companions=(),
        export=float_export(model, info),
        input_shapes=onnx_input_shapes,
        quantize=quantize,
        load=load_onnx,
    )
    return quantize_with(backend, model, path, calibration, options, evaluate)


def float_export(model: object, info: ImageInfo | None) -> Callable[[nn.Module, Path, Tensor], object]:
    """Return the function that writes the float file of a network.

    Raises:
        ExportError: There is a description, and the model is a file, which has its own.
    """
    if info is not None and not isinstance(model, nn.Module):
        raise ExportError(f"{model} has the description that it was exported with; leave out `info`.")
    return partial(export_onnx, rewrite="int8", info=info)


def _quantize(source: Path, file: Path, images: list[Tensor], options: Int8Options, reduce_range: bool) -> Quantized:
    onnx, quantization = require("onnx", "onnxruntime.quantization", needed_by="quantize_onnx")
    with suppressed_output("root"), tempfile.TemporaryDirectory() as folder:
        flat, prepared = Path(folder) / "one_sample.onnx", Path(folder) / "prepared.onnx"
        batch = write_one_sample(source, flat)
        _prepare(source if batch is None else flat, prepared)
        network = onnx.load(prepared)
        nodes = onnx_nodes(network)
        float_nodes = named_nodes(nodes, options.ignored)
        if options.branch == "float":
            float_nodes += [name for name in dynamic_nodes(nodes) if name not in float_nodes]
        quantization.quantize_static(
            prepared,
            file,
            _reader(network.graph.input, network.graph.initializer, images if batch is None else one_by_one(images)),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=reduce_range,
            nodes_to_exclude=float_nodes,
            op_types_to_quantize=[*_PRODUCTS, *_CHEAP_IN_INT8],
        )
        counts = _counts(onnx.load(file), len(float_nodes))
        if batch is not None:
            loop_file(file, batch)
    return counts


def _prepare(source: Path, prepared: Path) -> None:
    """Fold constants, infer shapes and name every node, as calibration requires."""
    onnx, process = require("onnx", "onnxruntime.quantization.shape_inference", needed_by="quantize_onnx")
    # Symbolic shape inference fails on some graphs with free sizes and leaves files in the current folder. Ordinary
    # shape inference is sufficient.
    process.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    network = onnx.load(prepared)
    names = {node.name for node in network.graph.node}
    for position, node in enumerate(network.graph.node):
        if not node.name:
            node.name = next(name for name in (f"node_{position}", f"node_{position}_unnamed") if name not in names)
    onnx.save(network, prepared)


def _reader(inputs: Any, initializers: Any, images: list[Tensor]) -> Any:
    (quantization,) = require("onnxruntime.quantization", needed_by="quantize_onnx")
    weights = {each.name for each in initializers}
    (name,) = [each.name for each in inputs if each.name not in weights]

    class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined,misc]
        """Gives each batch once."""

        def __init__(self) -> None:
            self.batches = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {name: batch.numpy()}

    return Reader()


def onnx_input_shapes(source: Path) -> list[Shape]:
    """Return the shapes of the inputs of an ONNX file, with None for free axes.

    Raises:
        ExportError: The file has a loop, and something else.
    """
    (onnx,) = require("onnx", needed_by="quantize_onnx")
    graph = onnx.load(source, load_external_data=False).graph
    kind = onnx.TensorProto.DataType
    check_takes_floats(source, (kind.Name(each.type.tensor_type.elem_type).lower() for each in graph.input))
    if [node.op_type for node in graph.node] != ["Scan"]:
        check_no_loop(source, (node.op_type for node in graph.node))
    weights = {each.name for each in graph.initializer}
    return [
        tuple(
            axis.dim_value if axis.HasField("dim_value") and axis.dim_value > 0 else None
            for axis in each.type.tensor_type.shape.dim
        )
        for each in graph.input
        if each.name not in weights
    ]


def onnx_nodes(network: Any) -> list[GraphNode]:
    """Return the operations of an ONNX graph in the form that `dynamic_nodes` reads."""
    (numpy_helper,) = require("onnx.numpy_helper", needed_by="quantize_onnx")
    weights = {each.name: each for each in network.graph.initializer}
    producers = {output: node.name for node in network.graph.node for output in node.output}
    nodes = [GraphNode(each.name, (), "input") for each in network.graph.input if each.name not in weights]
    producers.update({node.name: node.name for node in nodes})
    for node in network.graph.node:
        kind = _KINDS.get(node.op_type)
        if node.op_type == "ReduceMean":
            axes = next((list(each.ints) for each in node.attribute if each.name == "axes"), None)
            if axes is None and len(node.input) > 1 and node.input[1] in weights:
                axes = numpy_helper.to_array(weights[node.input[1]]).tolist()
            kind = "pool" if axes is not None and sorted(axes) in ([2, 3], [-2, -1]) else None
        nodes.append(
            GraphNode(
                node.name,
                tuple(producers[each] for each in node.input if each in producers),
                kind or "other",  # type: ignore[arg-type]
                (*(each for each in node.input if each in weights), *node.output),
            )
        )
    return nodes


def _counts(network: Any, kept_float: int) -> Quantized:
    producers = {output: node.op_type for node in network.graph.node for output in node.output}
    products = [node for node in network.graph.node if node.op_type in _PRODUCTS]
    quantized = [node for node in products if all(producers.get(each) == "DequantizeLinear" for each in node.input[:2])]
    return Quantized(len(quantized), len(products), kept_float)
