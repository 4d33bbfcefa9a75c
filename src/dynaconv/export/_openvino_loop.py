"""Turns an OpenVINO network of one sample into a network that runs it for each sample of a batch."""

from typing import Any

from dynaconv.export.packages import require


def loop_over_samples(network: Any, batch: int | str) -> Any:
    """Return a network whose TensorIterator runs ``network`` for each sample.

    Args:
        network: An `openvino.Model`; its inputs and outputs have a first axis of length one.
        batch: Length of that axis, or its name if it is free.
    """
    openvino, opset = require("openvino", "openvino.opset13", needed_by="OpenVINO export")
    length = -1 if isinstance(batch, str) else batch
    loop = opset.tensor_iterator()
    loop.set_body(network)
    inputs = []
    for body_input in network.get_parameters():
        shape = body_input.get_partial_shape()
        shape[0] = length
        inputs.append(opset.parameter(shape, body_input.get_element_type()))
        inputs[-1].output(0).set_names(body_input.output(0).get_names())
        loop.set_sliced_input(body_input, inputs[-1].output(0), 0, 1, 1, -1, 0)
    outputs = []
    for body_output in network.get_results():
        outputs.append(opset.result(loop.get_concatenated_slices(body_output.output(0), 0, 1, 1, -1, 0)))
        outputs[-1].output(0).set_names(body_output.output(0).get_names())
    looped = openvino.Model(outputs, inputs, network.get_friendly_name())
    looped.validate_nodes_and_infer_types()
    return looped
