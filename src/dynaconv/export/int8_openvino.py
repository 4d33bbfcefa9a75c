"""Exports int8 networks for OpenVINO with NNCF."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dynaconv.export._child import Child
from dynaconv.export._openvino_loop import loop_over_samples
from dynaconv.export._sample_loop import write_one_sample
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
from dynaconv.export.int8_branch import GraphNode, dynamic_nodes, named_nodes, node_origins
from dynaconv.export.int8_images import Shape
from dynaconv.export.int8_onnx import float_export, onnx_input_shapes
from dynaconv.export.int8_output import suppressed_output
from dynaconv.export.int8_report import Branch, Int8Report
from dynaconv.export.openvino import convert_onnx_file, copy_description, load_openvino, save
from dynaconv.export.packages import require, versioned

_PRODUCTS = {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul"}
_KINDS = {
    "Parameter": "input",
    "ShapeOf": "shape",
    "AdaptiveAvgPool": "pool",
    "Multiply": "product",
    "Add": "sum",
    **dict.fromkeys(_PRODUCTS, "product"),
    "MatMul": "rows",
}
# Largest ratio of a matrix's range to the ranges of three quarters of its rows, which then keep five bits and a sign.
_UNEVEN = 4
_DATA_MOVEMENT = {"Reshape", "Transpose", "Unsqueeze", "Squeeze", "Convert"}


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
    info: ImageInfo | None = None,
    overwrite: bool = False,
) -> Int8Report:
    """Write an int8 network for OpenVINO with NNCF, with value ranges from a few training images.

    Weights get one scale per output channel. Activations get a scale and, if they are signed, a zero point, which cover
    the smallest to the largest observed value. Operations that compute the coefficients of a dynamic kernel, and
    elementwise products of features with them, stay in float32 (docs/int8.md has the measurements).

    Args:
        model: A network, or an exported ``*.xml`` or ``*.onnx`` file.
        path: The file to write, ``*.xml``; its weights are written next to it, as ``*.bin``.
        calibration, subset_size, ignored, evaluate, max_drop, info, overwrite: See `quantize_onnx`; accuracy is
            measured in OpenVINO.
        branch: ``"int8"`` quantises the dynamic branches too.

    Returns:
        See `quantize_onnx`.

    Raises:
        ExportError: See `quantize_onnx`.
    """
    with suppressed_output("nncf"):
        require("openvino", "nncf", extra="int8", needed_by="quantize_openvino")
    options = Int8Options(
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
        export=float_export(model, info),
        input_shapes=_input_shapes,
        quantize=_quantize_in_child,
        load=load_openvino,
    )
    return quantize_with(backend, model, path, calibration, options, evaluate)


def _quantize_in_child(source: Path, file: Path, images: list[Tensor], options: Int8Options) -> Quantized:
    """Run `_quantize` in a child process, because NNCF runs the network in OpenVINO, which may crash."""
    counts: Quantized = Child(_quantizer)(source, file, images, options)
    return counts


def _quantizer() -> Callable[..., Quantized]:
    return _quantize


def _quantize(source: Path, file: Path, images: list[Tensor], options: Int8Options) -> Quantized:
    with suppressed_output("nncf"), tempfile.TemporaryDirectory() as folder:
        openvino, nncf, ranges, advanced = require(
            "openvino",
            "nncf",
            "nncf.quantization.range_estimator",
            "nncf.quantization.advanced_parameters",
            extra="int8",
            needed_by="quantize_openvino",
        )
        file_to_read, batch = _converted(source, Path(folder))
        network = openvino.Core().read_model(file_to_read)
        if batch is not None:
            images = one_by_one(images)
        nodes = openvino_nodes(network)
        float_nodes = named_nodes(nodes, options.ignored)
        if options.branch == "float":
            uneven = _uneven_products(network, nodes, images)
            float_nodes += [name for name in (*dynamic_nodes(nodes), *uneven) if name not in float_nodes]
        # OpenVINO has no int8 product of two computed factors with zero points. Other networks keep accuracy by them.
        symmetric = options.branch == "float" and not set(_products_of_rows(network, nodes)) <= set(float_nodes)
        preset = nncf.QuantizationPreset.PERFORMANCE if symmetric else nncf.QuantizationPreset.MIXED
        quantized = nncf.quantize(
            network,
            nncf.Dataset([batch.numpy() for batch in images]),
            preset=preset,
            subset_size=len(images),
            # No validation, because the graph in which NNCF looks up the names lacks the operations on shapes.
            ignored_scope=nncf.IgnoredScope(names=float_nodes, validate=False) if float_nodes else None,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # NNCF's default averages the ranges of the batches. With batches of one image it clips many values, and
                # the result depends on the batch size.
                activations_range_estimator_params=ranges.RangeEstimatorParametersSet.MINMAX,
                # Otherwise the input of a depthwise convolution gets one range per channel, along an axis that is not
                # the channel's if that input comes from a product of rows; OpenVINO cannot compile that.
                activations_quantization_params=advanced.QuantizationParameters(per_channel=False),
                # It costs accuracy, and its result depends on how the images are grouped.
                disable_bias_correction=True,
            ),
        )
        counts = _counts(quantized, len(float_nodes))
        if batch is not None:
            quantized = loop_over_samples(quantized, batch)
        copy_description(network, quantized)
        save(quantized, file)
    return counts


def _products_of_rows(network: Any, nodes: Sequence[GraphNode]) -> dict[str, Any]:
    """Return the output that computes the matrix, such as W(x), by the name of its product with rows of features."""
    origins = node_origins(nodes)
    matrices = {}
    for product in network.get_ordered_ops():
        if product.get_type_name() == "MatMul" and product.get_attributes()["transpose_b"]:
            matrix, features = product.input_value(1), product.input_value(0).get_node().get_friendly_name()
            computed = origins.get(matrix.get_node().get_friendly_name()) == "context"
            if computed and origins.get(features) == "features" and len(matrix.get_partial_shape()) == 3:
                matrices[product.get_friendly_name()] = matrix
    return matrices


def _uneven_products(network: Any, nodes: Sequence[GraphNode], images: Sequence[Tensor]) -> list[str]:
    """Return the products of features and a computed matrix, such as W(x), whose rows differ too much for one range.

    OpenVINO 2026.4 gives wrong outputs for a batch larger than one if each row has a range of its own.
    """
    openvino, opset, numpy = require(
        "openvino", "openvino.opset13", "numpy", extra="int8", needed_by="quantize_openvino"
    )
    matrices = _products_of_rows(network, nodes)
    if not matrices:
        return []
    model = openvino.Model([opset.result(matrix) for matrix in matrices.values()], network.get_parameters())
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    rows: dict[str, Any] = {}
    for batch in images:
        for name, matrix in zip(matrices, compiled(batch.numpy()).values(), strict=True):
            rows[name] = numpy.maximum(rows.get(name, 0), numpy.abs(matrix).max((0, 2)))
    return [name for name, each in rows.items() if numpy.quantile(each, 0.25) * _UNEVEN < each.max()]


def _converted(source: Path, folder: Path) -> tuple[Path, int | str | None]:
    """Return a file in OpenVINO's own format and, if it is the network of one sample of ``source``, the batch.

    NNCF breaks some graphs that OpenVINO reads from an ONNX file directly, and quantises others badly.
    """
    if source.suffix != ".onnx":
        return source, None
    file, flat = folder / "converted.xml", folder / "one_sample.onnx"
    batch = write_one_sample(source, flat)
    convert_onnx_file(source if batch is None else flat, file)
    return file, batch


def _input_shapes(source: Path) -> list[Shape]:
    if source.suffix == ".onnx":
        return onnx_input_shapes(source)
    (openvino,) = require("openvino", needed_by="quantize_openvino")
    network = openvino.Core().read_model(source)
    check_takes_floats(source, (each.element_type.to_string() for each in network.inputs))
    check_no_loop(source, (op.get_type_name() for op in network.get_ops()))
    return [
        tuple(axis.get_length() if axis.is_static else None for axis in each.partial_shape) for each in network.inputs
    ]


def openvino_nodes(network: Any) -> list[GraphNode]:
    """Return the operations of an OpenVINO graph in the form that `dynamic_nodes` reads."""
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


def _counts(network: Any, kept_float: int) -> Quantized:
    products = [op for op in network.get_ordered_ops() if op.get_type_name() in _PRODUCTS]
    return Quantized(sum(map(_takes_int8, products)), len(products), kept_float)


def _takes_int8(product: Any) -> bool:
    """Return whether the features that enter a convolution or matrix product are quantised; constants do not count."""
    for each in product.inputs():
        op = each.get_source_output().get_node()
        while op.get_type_name() in _DATA_MOVEMENT and op.inputs():
            op = op.inputs()[0].get_source_output().get_node()
        if op.get_type_name() == "FakeQuantize" and _reads_features(op):
            return True
    return False


def _reads_features(op: Any) -> bool:
    source = op.inputs()[0].get_source_output().get_node()
    while source.get_type_name() in _DATA_MOVEMENT and source.inputs():
        source = source.inputs()[0].get_source_output().get_node()
    return bool(source.get_type_name() != "Constant")
