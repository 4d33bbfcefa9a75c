"""Int8 networks for OpenVINO, by way of NNCF."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dynaconv.export._child import Child
from dynaconv.export.int8 import Int8Backend, Int8Options, Quantized, quantize_with
from dynaconv.export.int8_branch import GraphNode, dynamic_nodes, named_nodes
from dynaconv.export.int8_images import Shape
from dynaconv.export.int8_output import quietly
from dynaconv.export.int8_report import Branch, Int8Report
from dynaconv.export.openvino import convert_onnx_file, export_openvino, load_openvino
from dynaconv.export.packages import require, versioned

_PRODUCTS = {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul"}
_KINDS = {
    "Parameter": "input",
    "ShapeOf": "shape",
    "AdaptiveAvgPool": "pool",
    "Multiply": "product",
    **dict.fromkeys(_PRODUCTS, "product"),
}
_MOVES = {"Reshape", "Transpose", "Unsqueeze", "Squeeze", "Convert"}


def quantize_openvino(
    model: nn.Module | str | Path,
    path: str | Path,
    calibration: Iterable[Any],
    *,
    subset_size: int = 300,
    ignored: Sequence[str] = (),
    branch: Branch = "float",
    evaluate: Iterable[Any] | None = None,
    max_drop: float | None = None,
    overwrite: bool = False,
) -> Int8Report:
    """Write an int8 network for OpenVINO, its ranges taken from a few training images by NNCF.

    Weights get one scale for each channel out; activations a scale and where they are signed a zero point, between the
    smallest and the largest value seen. NNCF then corrects biases for the error. What makes the coefficients of a
    dynamic kernel, and what multiplies features with them, stays in float32 (docs/int8.md has the measurements).

    Args:
        model: A network, exported in passing, or an ``*.xml`` or ``*.onnx`` file that was.
        path: The file to write, ``*.xml``; its weights stand beside it as ``*.bin``.
        calibration, subset_size, ignored, evaluate, max_drop, overwrite: As for `quantize_onnx`; accuracy is measured
            in OpenVINO.
        branch: ``"int8"`` quantises the dynamic branches too, for a smaller file. Biases are not corrected then,
            because NNCF takes the 1 that is added to a scale for the bias of the layer before.

    Returns:
        As for `quantize_onnx`.

    Raises:
        ExportError: As for `quantize_onnx`.
    """
    with quietly("nncf"):
        require("openvino", "nncf", extra="int8", what="quantize_openvino")
    options = Int8Options.checked(
        subset_size=subset_size,
        ignored=ignored,
        branch=branch,
        max_drop=max_drop,
        evaluate=evaluate,
        overwrite=overwrite,
    )
    backend = Int8Backend(
        runtime=versioned("openvino", "OpenVINO"),
        tool=versioned("nncf", "NNCF"),
        sources=(".xml", ".onnx"),
        suffix=".xml",
        companions=(".bin",),
        # Lambda W0 + P Phi Q^T in one piece would leave no product with constants to quantise.
        export=partial(export_openvino, rewrite=False),
        input_shapes=_input_shapes,
        quantize=_quantize_apart,
        load=load_openvino,
    )
    return quantize_with(backend, model, path, calibration, options, evaluate)


def _quantize_apart(source: Path, file: Path, images: list[Tensor], options: Int8Options) -> Quantized:
    """As `_quantize`, in a process of its own: NNCF runs the network in OpenVINO, which may crash."""
    counts: Quantized = Child(_quantizer)(source, file, images, options)
    return counts


def _quantizer() -> Callable[..., Quantized]:
    return _quantize


def _quantize(source: Path, file: Path, images: list[Tensor], options: Int8Options) -> Quantized:
    with quietly("nncf"), tempfile.TemporaryDirectory() as folder:
        openvino, nncf, ranges = require(
            "openvino", "nncf", "nncf.quantization.range_estimator", extra="int8", what="quantize_openvino"
        )
        network = openvino.Core().read_model(_converted(source, Path(folder)))
        _spread_biases(network)
        nodes = openvino_nodes(network)
        kept = named_nodes(nodes, options.ignored)
        if options.branch == "float":
            kept += [name for name in dynamic_nodes(nodes) if name not in kept]
        quantized = nncf.quantize(
            network,
            nncf.Dataset([batch.numpy() for batch in images]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            # Not validated: operations on shapes are no part of the graph that NNCF looks the names up in.
            ignored_scope=nncf.IgnoredScope(names=kept, validate=False) if kept else None,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # NNCF's own choice averages the ranges of what it is given at once: one image at a time then clips a
                # good part of the values, and the result depends on how the images are grouped.
                activations_range_estimator_params=ranges.RangeEstimatorParametersSet.MINMAX,
                disable_bias_correction=options.branch == "int8",
            ),
        )
        openvino.save_model(quantized, file, compress_to_fp16=False)
    return _counted(quantized, len(kept))


def _spread_biases(network: Any) -> None:
    """Give a single number that is added to a product an entry for each channel.

    NNCF takes it for a bias, as one may, and corrects it channel by channel.
    """
    numpy, opset = require("numpy", "openvino.opset13", extra="int8", what="quantize_openvino")
    for op in network.get_ordered_ops():
        if op.get_type_name() != "Add":
            continue
        sources = [each.get_source_output().get_node() for each in op.inputs()]
        for position, (number, product) in enumerate((sources, sources[::-1])):
            if number.get_type_name() != "Constant" or product.get_type_name() not in _PRODUCTS:
                continue
            lengths, axis = product.get_output_partial_shape(0), -1 if product.get_type_name() == "MatMul" else 1
            if number.get_data().size == 1 and lengths[axis].is_static:
                shape = [1] * len(lengths)
                shape[axis] = lengths[axis].get_length()
                spread = opset.constant(numpy.full(shape, number.get_data().item(), number.get_data().dtype))
                op.input(position).replace_source_output(spread.output(0))


def _converted(source: Path, folder: Path) -> Path:
    """OpenVINO's own file for an ONNX file: read as it is, NNCF breaks some graphs and quantises others badly."""
    if source.suffix != ".onnx":
        return source
    file = folder / "converted.xml"
    convert_onnx_file(source, file)
    return file


def _input_shapes(source: Path) -> list[Shape]:
    (openvino,) = require("openvino", what="quantize_openvino")
    return [
        tuple(axis.get_length() if axis.is_static else None for axis in each.partial_shape)
        for each in openvino.Core().read_model(source).inputs
    ]


def openvino_nodes(network: Any) -> list[GraphNode]:
    """An OpenVINO graph as `dynamic_nodes` reads it."""
    nodes = []
    for op in network.get_ordered_ops():
        sources = [each.get_source_output().get_node() for each in op.inputs()]
        kind = _KINDS.get(op.get_type_name(), "other")
        if op.get_type_name() == "ReduceMean" and sources[1].get_type_name() == "Constant":
            axes = sorted(int(axis) for axis in sources[1].get_data().reshape(-1))
            kind = "pool" if axes in ([2, 3], [-2, -1]) else "other"
        if op.get_type_name() == "Constant":
            continue
        weights = [each.get_friendly_name() for each in sources if each.get_type_name() == "Constant"]
        nodes.append(
            GraphNode(
                op.get_friendly_name(),
                tuple(each.get_friendly_name() for each in sources if each.get_type_name() != "Constant"),
                kind,  # type: ignore[arg-type]
                tuple(weights),
            )
        )
    return nodes


def _counted(network: Any, kept: int) -> Quantized:
    products = [op for op in network.get_ordered_ops() if op.get_type_name() in _PRODUCTS]
    return Quantized(sum(map(_takes_int8, products)), len(products), kept)


def _takes_int8(product: Any) -> bool:
    """Whether the features that come into a convolution or matrix product are quantised; constants are not followed."""
    for each in product.inputs():
        op = each.get_source_output().get_node()
        while op.get_type_name() in _MOVES and op.inputs():
            op = op.inputs()[0].get_source_output().get_node()
        if op.get_type_name() == "FakeQuantize" and _reads_features(op):
            return True
    return False


def _reads_features(op: Any) -> bool:
    source = op.inputs()[0].get_source_output().get_node()
    while source.get_type_name() in _MOVES and source.inputs():
        source = source.inputs()[0].get_source_output().get_node()
    return bool(source.get_type_name() != "Constant")
