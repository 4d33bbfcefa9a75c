"""Turns the ONNX graph of one sample into a graph that runs it for each sample of a batch."""

from typing import Any

import torch

from dynaconv.export.packages import require


def loop_over_samples(model: Any, batch: int | str) -> None:
    """Rewrite an `onnx_ir` model for a batch of one in place: its graph becomes the body of a Scan over the samples.

    A kernel computed from the input is an ordinary convolution's weight in the graph of one sample. In a graph of a
    whole batch it is not, because a convolution has one weight for all samples. The runtime keeps its own layout of
    feature maps within the body, and needs memory for one sample at a time.

    Args:
        model: Its inputs and outputs have a first axis of length one.
        batch: Length of that axis, or its name if it is free.
    """
    (ir,) = require("onnx_ir", needed_by="ONNX export")
    graph = model.graph
    axis = ir.Value(name="sample_axis", const_value=ir.tensor(torch.tensor([0]).numpy(), name="sample_axis"))
    axis.shape, axis.type = ir.Shape([1]), ir.TensorType(axis.const_value.dtype)

    def like(value: Any, name: str, lengths: list[Any]) -> Any:
        return ir.Value(name=name, shape=ir.Shape(lengths), type=value.type)

    inputs, outputs, starts, ends, body_inputs = [], [], [], [], []
    for value in graph.inputs:
        lengths = list(value.shape)[1:]
        inputs.append(like(value, value.name, [batch, *lengths]))
        body_inputs.append(like(value, f"{value.name}_sample", lengths))
        starts.append(
            ir.node("Unsqueeze", [body_inputs[-1], axis], outputs=[like(value, f"{value.name}_one", [1, *lengths])])
        )
        ir.convenience.replace_all_uses_with(value, starts[-1].outputs[0])
    for value in graph.outputs:
        lengths, name = list(value.shape)[1:], value.name
        value.name = f"{name}_one"
        outputs.append(like(value, name, [batch, *lengths]))
        ends.append(ir.node("Squeeze", [value, axis], outputs=[like(value, f"{name}_sample", lengths)]))
    nodes, initializers = list(graph), [*graph.initializers.values(), axis]
    graph.outputs.clear()
    graph.remove(nodes)
    graph.inputs.clear()
    graph.initializers.clear()
    body_outputs = [end.outputs[0] for end in ends]
    body = ir.Graph(
        body_inputs, body_outputs, nodes=[*starts, *nodes, *ends], initializers=initializers, name="one_sample"
    )
    scan = ir.node("Scan", inputs, {"body": body, "num_scan_inputs": len(inputs)}, outputs=outputs, name="samples")
    model.graph = ir.Graph(inputs, outputs, nodes=[scan], opset_imports=graph.opset_imports, name=graph.name)
