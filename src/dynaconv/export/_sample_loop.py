"""Turns the ONNX graph of one sample into a graph that runs it for each sample of a batch."""

from pathlib import Path
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


def one_sample(model: Any) -> int | str | None:
    """Undo `loop_over_samples` in place, and return the batch; None if the model has no such loop.

    The model then has a batch of one, and the names of inputs and outputs that it had before `loop_over_samples`.
    """
    (ir,) = require("onnx_ir", needed_by="ONNX export")
    graph = model.graph
    if [node.op_type for node in graph] != ["Scan"]:
        return None
    scan, body = graph[0], graph[0].attributes["body"].as_graph()
    batch = graph.inputs[0].shape[0]
    names = [[value.name for value in values] for values in (graph.inputs, graph.outputs)]
    starts = [next(iter(value.consumers())) for value in body.inputs]
    ends = [value.producer() for value in body.outputs]
    inputs, outputs = [start.outputs[0] for start in starts], [end.inputs[0] for end in ends]
    axis = starts[0].inputs[1]
    constants = [value for value in body.initializers.values() if value is not axis]
    nodes = [node for node in body if node not in (*starts, *ends)]
    body.outputs.clear()
    body.remove([*starts, *nodes, *ends])
    body.inputs.clear()
    body.initializers.clear()
    for position, value in enumerate(inputs):
        inputs[position] = ir.Value(name=value.name, shape=value.shape, type=value.type)
        ir.convenience.replace_all_uses_with(value, inputs[position])
    for end in ends:
        end.replace_input_with(0, None)
    graph.outputs.clear()
    graph.remove(scan)
    model.graph = ir.Graph(inputs, outputs, nodes=nodes, initializers=constants, opset_imports=graph.opset_imports)
    for values, originals in zip((inputs, outputs), names, strict=True):
        for value, name in zip(values, originals, strict=True):
            value.name = name
    return batch if isinstance(batch, int) else str(batch.value)


def write_one_sample(source: Path, file: Path) -> int | str | None:
    """Write the network of one sample of an ONNX file to another, and return the batch.

    If the file has no loop of `loop_over_samples`, nothing is written, and None is returned.
    """
    (ir,) = require("onnx_ir", needed_by="quantisation")
    model = ir.load(source)
    batch = one_sample(model)
    if batch is not None:
        ir.save(model, file)
    return batch


def loop_file(file: Path, batch: int | str) -> None:
    """Apply `loop_over_samples` to the model in an ONNX file."""
    (ir,) = require("onnx_ir", needed_by="quantisation")
    model = ir.load(file)
    loop_over_samples(model, batch)
    ir.save(model, file)
