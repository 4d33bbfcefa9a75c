"""Replaces operators of an ONNX graph by equivalent operators that ONNX Runtime computes faster."""

from typing import Any

import torch

from dynaconv.export.packages import require

# Channels per block in the blocked layout of ONNX Runtime's convolutions; 8 on processors without AVX-512.
_CHANNEL_BLOCK = 16


def for_onnxruntime(model: Any) -> None:
    """Rewrite an `onnx_ir` model in place.

    - A mean over height and width that keeps both axes becomes GlobalAveragePool, which reads the blocked layout of
      ONNX Runtime's convolutions. For ReduceMean the whole feature map is copied to another layout.
    - A vector divided by its L2 norm becomes LpNormalization, one operator instead of two.
    - A bias between a matrix product and an activation whose output only convolutions read becomes a depthwise
      convolution. ONNX Runtime fuses it with the activation, so that both take one pass over the feature map.
    - Sums and means of matrix products are computed before the reshape from ``(B, C, H W)`` to ``(B, C, H, W)``.
    - Reshapes that cancel each other are removed.
    """
    ir, passes = require("onnx_ir", "onnx_ir.passes.common", needed_by="ONNX export")
    graph = model.graph
    for node in list(graph):
        if node.op_type == "ReduceMean" and _is_global_pool(ir, node):
            _replace(ir, graph, node, ir.node("GlobalAveragePool", node.inputs[:1]))
        elif node.op_type == "Div" and _is_l2_normalization(ir, node):
            _replace(ir, graph, node, ir.node("LpNormalization", node.inputs[:1], {"axis": 1, "p": 2}))
        elif node.op_type == "ReduceMean":
            _mean_before_reshape(ir, graph, node)
        elif node.op_type == "Add" and not _bias_to_convolution(ir, graph, node):
            _sum_before_reshape(ir, graph, node)
        elif node.op_type == "Reshape":
            _bypass_reshape(ir, node)
    passes.RemoveUnusedNodesPass()(model)


def _is_global_pool(ir: Any, node: Any) -> bool:
    return (
        len(_dims(node.inputs[0])) == 4
        and node.attributes.get_int("keepdims", 1) == 1
        and sorted(axis % 4 for axis in _integers(ir, node, 1)) == [2, 3]
    )


def _is_l2_normalization(ir: Any, node: Any) -> bool:
    norm = node.inputs[1].producer()
    return (
        norm is not None
        and norm.op_type == "ReduceL2"
        and norm.inputs[0] is node.inputs[0]
        and norm.attributes.get_int("keepdims", 1) == 1
        and _integers(ir, norm, 1) == [1]
    )


def _mean_before_reshape(ir: Any, graph: Any, node: Any) -> None:
    """Compute the mean over height and width before the pixel axis is reshaped to height and width."""
    flat = _flat_source(node.inputs[0])
    drops_axes = node.attributes.get_int("keepdims", 1) == 0
    if flat is not None and drops_axes and sorted(axis % 4 for axis in _integers(ir, node, 1)) == [2, 3]:
        axes = _initializer(ir, graph, f"{node.outputs[0].name}_axes", torch.tensor([2]).numpy())
        _replace(ir, graph, node, ir.node("ReduceMean", [flat, axes], {"keepdims": 0}))


def _bias_to_convolution(ir: Any, graph: Any, node: Any) -> bool:
    """Apply the bias rule of `for_onnxruntime` if it applies, and return whether it did."""
    image, bias = _image_and_bias(ir, node)
    flat = _flat_source(image)
    if flat is None or flat.producer() is None or flat.producer().op_type != "MatMul" or len(bias) % _CHANNEL_BLOCK:
        return False
    activations = _users(node.outputs[0])
    if len(activations) != 1 or activations[0].op_type not in ("Clip", "Relu"):
        return False
    users = _users(activations[0].outputs[0])
    if not users or any(user.op_type != "Conv" for user in users):
        return False
    name = node.outputs[0].name
    ones = _initializer(ir, graph, f"{name}_ones", torch.ones(len(bias), 1, 1, 1).numpy())
    values = _initializer(ir, graph, f"{name}_bias", bias)
    _replace(ir, graph, node, ir.node("Conv", [image, ones, values], {"group": len(bias), "kernel_shape": [1, 1]}))
    return True


def _sum_before_reshape(ir: Any, graph: Any, node: Any) -> None:
    """Add two images, or an image and a bias, before the pixel axis is reshaped to height and width."""
    image, bias = _image_and_bias(ir, node)
    if image is not None:
        flat = _flat_source(image)
        other = None if flat is None else _initializer(ir, graph, f"{node.outputs[0].name}_bias", bias[:, None])
    else:
        image = node.inputs[0]
        flat, other = (_flat_source(value) for value in node.inputs)
        if flat is not None and other is not None and _dims(flat) != _dims(other):
            return
    if flat is None or other is None:
        return
    total = ir.node("Add", [flat, other])
    total.outputs[0].shape, total.outputs[0].type = flat.shape, flat.type
    total.outputs[0].name = f"{node.outputs[0].name}_rows"
    graph.insert_before(node, total)
    reshape = image.producer()
    new = ir.node("Reshape", [total.outputs[0], reshape.inputs[1]], dict(reshape.attributes))
    _replace(ir, graph, node, new)


def _bypass_reshape(ir: Any, node: Any) -> None:
    """Bypass a reshape that keeps the shape or restores the shape before the preceding reshape."""
    source, result = node.inputs[0], node.outputs[0]
    before = source.producer()
    choices = [source] if before is None or before.op_type != "Reshape" else [source, before.inputs[0]]
    same = [value for value in choices if _dims(value) and _dims(value) == _dims(result)]
    if same and not result.is_graph_output():
        ir.convenience.replace_all_uses_with(result, same[-1])


def _flat_source(image: Any) -> Any:
    """Return the value ``(B, C, N)`` from which an image ``(B, C, H, W)`` was reshaped; None if there is none."""
    node = None if image is None else image.producer()
    if node is None or node.op_type != "Reshape":
        return None
    before, after = _dims(node.inputs[0]), _dims(image)
    return node.inputs[0] if len(before) == 3 and len(after) == 4 and before[:2] == after[:2] else None


def _image_and_bias(ir: Any, node: Any) -> tuple[Any, Any]:
    """Return the image and the constant ``(C,)`` that a node adds; (None, None) if its inputs are others."""
    for image, constant in (node.inputs, node.inputs[::-1]):
        tensor = ir.convenience.get_const_tensor(constant)
        channels = _dims(image)[1:2]
        if tensor is not None and len(_dims(image)) == 4 and tuple(tensor.shape)[-3:] == (*channels, 1, 1):
            return image, tensor.numpy().reshape(-1)
    return None, None


def _users(value: Any) -> list[Any]:
    """Return the nodes that read a value, also through reshapes that keep its shape; none for a graph output."""
    if value.is_graph_output():
        return []
    users = []
    for node in value.consumers():
        skipped = node.op_type == "Reshape" and _dims(value) and _dims(node.outputs[0]) == _dims(value)
        users += _users(node.outputs[0]) if skipped else [node]
    return users


def _dims(value: Any) -> tuple[int | str, ...]:
    """Return the lengths of a value's axes, with names for free axes; empty if a length is unknown."""
    if value is None or value.shape is None:
        return ()
    dims = tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)
    return () if None in dims else dims


def _integers(ir: Any, node: Any, position: int) -> list[int]:
    """Return the integers of a node's constant input; empty if the input is missing or not constant."""
    value = node.inputs[position] if len(node.inputs) > position else None
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return [] if tensor is None else [int(each) for each in tensor.numpy().reshape(-1)]


def _initializer(ir: Any, graph: Any, name: str, array: Any) -> Any:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.type = ir.Shape(array.shape), ir.TensorType(value.const_value.dtype)
    graph.register_initializer(value)
    return value


def _replace(ir: Any, graph: Any, node: Any, new: Any) -> None:
    """Replace a node by another one, which takes over the names of the node and its output."""
    new.name, old = node.name, node.outputs[0]
    ir.convenience.replace_nodes_and_values(graph, node, [node], [new], [old], [new.outputs[0]])
