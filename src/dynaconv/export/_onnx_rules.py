"""Replaces operators of an ONNX graph by equivalent operators that graph runtimes compute faster."""

from typing import Any

import torch

from dynaconv.export.packages import require


def for_graph_runtimes(model: Any) -> None:
    """Rewrite an `onnx_ir` model in place.

    - A mean over height and width that keeps both axes becomes GlobalAveragePool, which reads the blocked layout of
      ONNX Runtime's convolutions. For ReduceMean the whole feature map is copied to another layout.
    - A vector divided by its L2 norm becomes LpNormalization, one operator instead of two.
    - A bias added to the output of a convolution with a computed weight becomes an input of the convolution. Runtimes
      do so themselves only if the weight is constant; then they also fuse the activation that follows.
    - An activation that reads a transposed value runs before the transpose, so that a quantiser sees it beside the
      product before it, and the runtime can choose its layout for the rest.
    - A reshape to a constant shape reads the value before other operators that only change its shape.
    """
    ir, passes = require("onnx_ir", "onnx_ir.passes.common", needed_by="ONNX export")
    graph = model.graph
    for node in list(graph):
        if node.op_type == "ReduceMean" and _is_global_pool(ir, node):
            _pool_globally(ir, graph, node)
        elif node.op_type == "Div" and _is_l2_normalization(ir, node):
            _replace(ir, graph, node, ir.node("LpNormalization", node.inputs[:1], {"axis": 1, "p": 2}))
        elif node.op_type == "Add":
            _bias_into_convolution(ir, graph, node)
        elif node.op_type in ("Clip", "Relu"):
            _activate_before_transpose(ir, graph, node)
    for node in graph:
        if node.op_type == "Reshape" and 0 not in _integers(ir, node, 1):
            _skip_shape_changes(ir, node)
    passes.RemoveUnusedNodesPass()(model)


def _is_global_pool(ir: Any, node: Any) -> bool:
    return len(_dims(node.inputs[0])) == 4 and sorted(axis % 4 for axis in _integers(ir, node, 1)) == [2, 3]


def _pool_globally(ir: Any, graph: Any, node: Any) -> None:
    """Replace a mean over height and width by GlobalAveragePool and, if the mean drops both axes, a reshape."""
    pool = ir.node("GlobalAveragePool", node.inputs[:1])
    if node.attributes.get_int("keepdims", 1) == 1:
        _replace(ir, graph, node, pool)
        return
    name = node.outputs[0].name
    pool.outputs[0].name = f"{name}_pooled"
    graph.insert_before(node, pool)
    axes = _initializer(ir, graph, f"{name}_axes", torch.tensor([2, 3]).numpy())
    _replace(ir, graph, node, ir.node("Squeeze", [pool.outputs[0], axes]))


def _is_l2_normalization(ir: Any, node: Any) -> bool:
    norm = node.inputs[1].producer()
    return (
        norm is not None
        and norm.op_type == "ReduceL2"
        and norm.inputs[0] is node.inputs[0]
        and norm.attributes.get_int("keepdims", 1) == 1
        and _integers(ir, norm, 1) == [1]
    )


def _bias_into_convolution(ir: Any, graph: Any, node: Any) -> None:
    for image, bias in (node.inputs, node.inputs[::-1]):
        conv = image.producer()
        if conv is None or conv.op_type != "Conv" or len(conv.inputs) != 2 or len(image.consumers()) != 1:
            continue
        channels = _dims(image)[1:2]
        # One bias for each channel, of the only sample or of all samples.
        if _dims(bias) not in ((*channels, 1, 1), (1, *channels, 1, 1)) or image.is_graph_output():
            continue
        if ir.convenience.get_const_tensor(conv.inputs[1]) is not None:
            continue
        name = node.outputs[0].name
        shape = _initializer(ir, graph, f"{name}_bias_shape", torch.tensor([-1]).numpy())
        vector = ir.node("Reshape", [bias, shape])
        vector.outputs[0].name = f"{name}_bias"
        graph.insert_before(node, vector)
        _replace(ir, graph, node, ir.node("Conv", [*conv.inputs, vector.outputs[0]], dict(conv.attributes)))
        return


def _activate_before_transpose(ir: Any, graph: Any, node: Any) -> None:
    value, moves = node.inputs[0], []
    while len(value.consumers()) == 1 and (before := value.producer()) is not None and not value.is_graph_output():
        if before.op_type not in ("Transpose", "Reshape"):
            break
        moves.append(before)
        value = before.inputs[0]
    if all(move.op_type != "Transpose" for move in moves):
        return
    activation = ir.node(node.op_type, [value, *node.inputs[1:]], dict(node.attributes), name=node.name)
    activation.outputs[0].name = f"{node.outputs[0].name}_before_transpose"
    activation.outputs[0].shape, activation.outputs[0].type = value.shape, value.type
    graph.insert_before(moves[-1], activation)
    moves[-1].replace_input_with(0, activation.outputs[0])
    ir.convenience.replace_nodes_and_values(graph, node, [node], [], [node.outputs[0]], [moves[0].outputs[0]])


def _skip_shape_changes(ir: Any, node: Any) -> None:
    """Let a reshape whose result does not depend on the shape of its input read the value before other reshapes."""
    if ir.convenience.get_const_tensor(node.inputs[1]) is None:
        return
    while (before := node.inputs[0].producer()) is not None and before.op_type in ("Reshape", "Squeeze", "Unsqueeze"):
        node.replace_input_with(0, before.inputs[0])


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
