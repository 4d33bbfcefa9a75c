"""Operators of an ONNX graph replaced by others that ONNX Runtime computes faster, the function being the same."""

from typing import Any

from dynaconv.export.packages import require


def for_onnxruntime(model: Any) -> None:
    """Rewrite an `onnx_ir` model in place.

    - The mean over height and width that keeps both axes becomes GlobalAveragePool, which reads the blocked layout of
      ONNX Runtime's convolutions, where ReduceMean has the whole feature map copied.
    - A vector divided by its length becomes LpNormalization, one operator in place of two.
    """
    (ir,) = require("onnx_ir", what="ONNX")
    for node in list(model.graph):
        if node.op_type == "ReduceMean" and _pools(ir, node):
            _replace(ir, model.graph, node, "GlobalAveragePool", {})
        elif node.op_type == "Div" and _divides_by_length(ir, node):
            _replace(ir, model.graph, node, "LpNormalization", {"axis": 1, "p": 2})
    (passes,) = require("onnx_ir.passes.common", what="ONNX")
    passes.RemoveUnusedNodesPass()(model)


def _pools(ir: Any, node: Any) -> bool:
    shape = node.inputs[0].shape
    return (
        shape is not None
        and len(shape) == 4
        and node.attributes.get_int("keepdims", 1) == 1
        and sorted(axis % 4 for axis in _constant(ir, node, 1)) == [2, 3]
    )


def _divides_by_length(ir: Any, node: Any) -> bool:
    length = node.inputs[1].producer()
    return (
        length is not None
        and length.op_type == "ReduceL2"
        and length.inputs[0] is node.inputs[0]
        and length.attributes.get_int("keepdims", 1) == 1
        and _constant(ir, length, 1) == [1]
    )


def _constant(ir: Any, node: Any, position: int) -> list[int]:
    """The integers that an input of a node always is; none where it is no constant."""
    value = node.inputs[position] if len(node.inputs) > position else None
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return [] if tensor is None else [int(each) for each in tensor.numpy().reshape(-1)]


def _replace(ir: Any, graph: Any, node: Any, op_type: str, attributes: dict[str, int]) -> None:
    """Put another operator of the first input in a node's place, under its name and that of its output."""
    new = ir.node(op_type, [node.inputs[0]], attributes, name=node.name, num_outputs=1)
    old = node.outputs[0]
    ir.convenience.replace_nodes_and_values(graph, node, [node], [new], [old], [new.outputs[0]])
