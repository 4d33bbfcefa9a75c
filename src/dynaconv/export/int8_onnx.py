"""Int8 networks for ONNX Runtime."""

import tempfile
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dynaconv.export.int8 import Int8Backend, Int8Options, Quantized, quantize_with
from dynaconv.export.int8_branch import GraphNode, dynamic_nodes, named_nodes
from dynaconv.export.int8_images import Shape
from dynaconv.export.int8_output import quietly
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
    overwrite: bool = False,
) -> Int8Report:
    """Write an int8 network for ONNX Runtime, its ranges taken from a few training images.

    Weights become int8, one scale for each channel out; activations uint8, one scale and zero point a tensor, between
    the smallest and the largest value seen. The graph holds pairs of QuantizeLinear and DequantizeLinear. What makes
    the coefficients of a dynamic kernel, and what multiplies features with them, stays in float32: it is a small part
    of the work, and int8 makes it slower (docs/int8.md has the measurements). W0, Q, depthwise and ordinary
    convolutions and the classifier become int8.

    Args:
        model: A network, exported in passing, or an ``*.onnx`` file that `export_onnx` wrote.
        path: The file to write, ``*.onnx``.
        calibration: Batches ``(B, C, H, W)`` of training images, normalised as in training, or pairs of such a batch
            and labels, as a data loader gives them; never test images.
        subset_size: How many of the images to take at most.
        ignored: Shell patterns of operations to keep in float32; each is compared with the name of an operation and of
            its weights and outputs, such as ``blocks.0.*``.
        branch: ``"int8"`` quantises the dynamic branches too, for a smaller file.
        evaluate: Batches of images and classes; then the accuracy before and after is measured in ONNX Runtime.
        max_drop: Refuse to write when more points of accuracy than this are lost.
        reduce_range: Weights of 7 bits, for x86 processors with AVX2 or AVX-512 but no VNNI, where sums of two products
            can saturate in 16 bits.
        overwrite: Replace a file that is there.

    Returns:
        Sizes, accuracy, error, and how much is int8.

    Raises:
        ExportError: A package is missing, the path cannot be used, a loader gives nothing or something that does not
            fit, outputs are not finite, or more than ``max_drop`` is lost. No file is left, one that was there stays.
    """
    require("onnx", "onnxruntime", extra="int8", what="quantize_onnx")
    options = Int8Options.checked(
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
        # Lambda W0 + P Phi Q^T in one piece would leave no product with constants to quantise.
        export=partial(export_onnx, rewrite=False),
        input_shapes=_input_shapes,
        quantize=quantize,
        load=load_onnx,
    )
    return quantize_with(backend, model, path, calibration, options, evaluate)


def _quantize(source: Path, file: Path, images: list[Tensor], options: Int8Options, reduce_range: bool) -> Quantized:
    onnx, quantization = require("onnx", "onnxruntime.quantization", what="quantize_onnx")
    with quietly("root"), tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        _prepare(source, prepared)
        network = onnx.load(prepared)
        nodes = onnx_nodes(network)
        kept = named_nodes(nodes, options.ignored)
        if options.branch == "float":
            kept += [name for name in dynamic_nodes(nodes) if name not in kept]
        quantization.quantize_static(
            prepared,
            file,
            _reader(network.graph.input, network.graph.initializer, images),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=reduce_range,
            nodes_to_exclude=kept,
            # What stands between products is cheaper in float32 than its conversions.
            op_types_to_quantize=list(_PRODUCTS),
        )
    return _counted(onnx.load(file), len(kept))


def _prepare(source: Path, prepared: Path) -> None:
    """Fold constants, infer shapes and give every node a name, as calibration needs it."""
    onnx, process = require("onnx", "onnxruntime.quantization.shape_inference", what="quantize_onnx")
    # Its symbolic inference gives up on some graphs with free sizes and leaves files where one is; the ordinary does.
    process.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    network = onnx.load(prepared)
    taken = {node.name for node in network.graph.node}
    for position, node in enumerate(network.graph.node):
        if not node.name:
            node.name = next(name for name in (f"node_{position}", f"node_{position}_unnamed") if name not in taken)
    onnx.save(network, prepared)


def _reader(inputs: Any, initializers: Any, images: list[Tensor]) -> Any:
    (quantization,) = require("onnxruntime.quantization", what="quantize_onnx")
    weights = {each.name for each in initializers}
    (name,) = [each.name for each in inputs if each.name not in weights]

    class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined,misc]
        """Gives one batch after another, once."""

        def __init__(self) -> None:
            self.batches = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {name: batch.numpy()}

    return Reader()


def _input_shapes(source: Path) -> list[Shape]:
    (onnx,) = require("onnx", what="quantize_onnx")
    graph = onnx.load(source, load_external_data=False).graph
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
    """An ONNX graph as `dynamic_nodes` reads it."""
    (numpy_helper,) = require("onnx.numpy_helper", what="quantize_onnx")
    weights = {each.name: each for each in network.graph.initializer}
    makers = {output: node.name for node in network.graph.node for output in node.output}
    nodes = [GraphNode(each.name, (), "input") for each in network.graph.input if each.name not in weights]
    makers.update({node.name: node.name for node in nodes})
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
                tuple(makers[each] for each in node.input if each in makers),
                kind or "other",  # type: ignore[arg-type]
                (*(each for each in node.input if each in weights), *node.output),
            )
        )
    return nodes


def _counted(network: Any, kept: int) -> Quantized:
    makers = {output: node.op_type for node in network.graph.node for output in node.output}
    products = [node for node in network.graph.node if node.op_type in _PRODUCTS]
    quantized = [node for node in products if all(makers.get(each) == "DequantizeLinear" for each in node.input[:2])]
    return Quantized(len(quantized), len(products), kept)
