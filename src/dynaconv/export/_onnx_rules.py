"""Operators of an ONNX graph replaced by others that ONNX Runtime computes faster, the function being the same."""

from typing import Any

import numpy as np

from dynaconv.export.packages import require

# Channels that ONNX Runtime's convolutions keep together; 8 where the processor has no AVX-512.
_BLOCK = 16


def for_onnxruntime(model: Any) -> None:
    """Rewrite an `onnx_ir` model in place.

    - The mean over height and width that keeps both axes becomes GlobalAveragePool, which reads the blocked layout of
      ONNX Runtime's convolutions, where ReduceMean has the whole feature map copied.
    - A vector divided by its length becomes LpNormalization, one operator in place of two.
    - A bias between a product and an activation that feeds convolutions becomes a depthwise convolution: ONNX Runtime
      fuses the activation behind it, so that one pass over the map does for both.
    - Sums and means of products are taken before pixels get two axes again, and reshapes that cancel go.
    """
    ir, passes = require("onnx_ir", "onnx_ir.passes.common", what="ONNX")
    graph = model.graph
    for node in list(graph):
        if node.op_type == "ReduceMean" and _pools(ir, node):
            _replace(ir, graph, node, ir.node("GlobalAveragePool", node.inputs[:1]))
        elif node.op_type == "Div" and _divides_by_length(ir, node):
            _replace(ir, graph, node, ir.node("LpNormalization", node.inputs[:1], {"axis": 1, "p": 2}))
        elif node.op_type == "ReduceMean":
            _mean_of_rows(ir, graph, node)
        elif node.op_type == "Add" and not _bias_by_convolution(ir, graph, node):
            _sum_of_rows(ir, graph, node)
        elif node.op_type == "Reshape":
            _shorten(ir, node)
    passes.RemoveUnusedNodesPass()(model)


def _pools(ir: Any, node: Any) -> bool:
    return (
        len(_dims(node.inputs[0])) == 4
        and node.attributes.get_int("keepdims", 1) == 1
        and sorted(axis % 4 for axis in _integers(ir, node, 1)) == [2, 3]
    )


def _divides_by_length(ir: Any, node: Any) -> bool:
    length = node.inputs[1].producer()
    return (
        length is not None
        and length.op_type == "ReduceL2"
        and length.inputs[0] is node.inputs[0]
        and length.attributes.get_int("keepdims", 1) == 1
        and _integers(ir, length, 1) == [1]
    )


def _mean_of_rows(ir: Any, graph: Any, node: Any) -> None:
    """The mean over both axes of an image whose pixels had one axis before."""
    rows = _rows(node.inputs[0])
    drops = node.attributes.get_int("keepdims", 1) == 0
    if rows is not None and drops and sorted(axis % 4 for axis in _integers(ir, node, 1)) == [2, 3]:
        axes = _initializer(ir, graph, f"{node.outputs[0].name}_axes", np.array([2]))
        _replace(ir, graph, node, ir.node("ReduceMean", [rows, axes], {"keepdims": 0}))


def _bias_by_convolution(ir: Any, graph: Any, node: Any) -> bool:
    """Whether what `for_onnxruntime` says of a bias was done."""
    image, bias = _with_bias(ir, node)
    rows = _rows(image)
    if rows is None or rows.producer() is None or rows.producer().op_type != "MatMul" or len(bias) % _BLOCK:
        return False
    activations = _users(node.outputs[0])
    if len(activations) != 1 or activations[0].op_type not in ("Clip", "Relu"):
        return False
    users = _users(activations[0].outputs[0])
    if not users or any(user.op_type != "Conv" for user in users):
        return False
    name = node.outputs[0].name
    ones = _initializer(ir, graph, f"{name}_ones", np.ones((len(bias), 1, 1, 1), np.float32))
    values = _initializer(ir, graph, f"{name}_bias", bias)
    _replace(ir, graph, node, ir.node("Conv", [image, ones, values], {"group": len(bias), "kernel_shape": [1, 1]}))
    return True


def _sum_of_rows(ir: Any, graph: Any, node: Any) -> None:
    """The sum of two images, or of an image and a bias, whose pixels had one axis before."""
    image, bias = _with_bias(ir, node)
    if image is not None:
        rows = _rows(image)
        other = None if rows is None else _initializer(ir, graph, f"{node.outputs[0].name}_bias", bias[:, None])
    else:
        image = node.inputs[0]
        rows, other = (_rows(value) for value in node.inputs)
        if rows is not None and other is not None and _dims(rows) != _dims(other):
            return
    if rows is None or other is None:
        return
    total = ir.node("Add", [rows, other])
    total.outputs[0].shape, total.outputs[0].type = rows.shape, rows.type
    total.outputs[0].name = f"{node.outputs[0].name}_rows"
    graph.insert_before(node, total)
    reshape = image.producer()
    new = ir.node("Reshape", [total.outputs[0], reshape.inputs[1]], dict(reshape.attributes))
    _replace(ir, graph, node, new)


def _shorten(ir: Any, node: Any) -> None:
    """A reshape that changes nothing, or undoes the one before it, has its users read what was there."""
    source, result = node.inputs[0], node.outputs[0]
    before = source.producer()
    choices = [source] if before is None or before.op_type != "Reshape" else [source, before.inputs[0]]
    same = [value for value in choices if _dims(value) and _dims(value) == _dims(result)]
    if same and not result.is_graph_output():
        ir.convenience.replace_all_uses_with(result, same[-1])


def _rows(image: Any) -> Any:
    """The value ``(B, C, N)`` that an image ``(B, C, H, W)`` was reshaped from; None where it was not."""
    node = None if image is None else image.producer()
    if node is None or node.op_type != "Reshape":
        return None
    before, after = _dims(node.inputs[0]), _dims(image)
    return node.inputs[0] if len(before) == 3 and len(after) == 4 and before[:2] == after[:2] else None


def _with_bias(ir: Any, node: Any) -> tuple[Any, Any]:
    """The image and the constant ``(C,)`` that a sum is of; nothing where it is of others."""
    for image, constant in (node.inputs, node.inputs[::-1]):
        tensor = ir.convenience.get_const_tensor(constant)
        channels = _dims(image)[1:2]
        if tensor is not None and len(_dims(image)) == 4 and tuple(tensor.shape)[-3:] == (*channels, 1, 1):
            return image, tensor.numpy().reshape(-1)
    return None, None


def _users(value: Any) -> list[Any]:
    """The nodes that read a value, also by way of a reshape that changes nothing; none where it leaves the graph."""
    if value.is_graph_output():
        return []
    found = []
    for node in value.consumers():
        skipped = node.op_type == "Reshape" and _dims(value) and _dims(node.outputs[0]) == _dims(value)
        found += _users(node.outputs[0]) if skipped else [node]
    return found


def _dims(value: Any) -> tuple[int | str, ...]:
    """The lengths of a value's axes, free ones by their names; none where one is unknown."""
    if value is None or value.shape is None:
        return ()
    dims = tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)
    return () if None in dims else dims


def _integers(ir: Any, node: Any, position: int) -> list[int]:
    """The integers that an input of a node always is; none where it is no constant."""
    value = node.inputs[position] if len(node.inputs) > position else None
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return [] if tensor is None else [int(each) for each in tensor.numpy().reshape(-1)]


def _initializer(ir: Any, graph: Any, name: str, array: Any) -> Any:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.type = ir.Shape(array.shape), ir.TensorType(value.const_value.dtype)
    graph.register_initializer(value)
    return value


def _replace(ir: Any, graph: Any, node: Any, new: Any) -> None:
    """Put another operator in a node's place, under its name and that of its output."""
    new.name, old = node.name, node.outputs[0]
    ir.convenience.replace_nodes_and_values(graph, node, [node], [new], [old], [new.outputs[0]])
