"""Turns a network to export into one that computes in float16, except for the branches of its dynamic layers."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from dynaconv.export.packages import require
from dynaconv.families.contract.branch import DynamicBranch
from dynaconv.families.contract.deployed import DeployedBranch
from dynaconv.families.dcd.prepared import PreparedDCD

# Their coefficients are products and quotients of sums, for which float16 has too few bits and too small a range.
_FLOAT32_MODULES = (DynamicBranch, DeployedBranch, PreparedDCD)
_MIN_STORED_SIZE = 1024


def in_half_form(network: nn.Module) -> nn.Module:
    """Return a copy of a network that computes in float16 and takes and returns float32.

    Dynamic branches keep their float32 tensors, which `store_in_half` makes smaller in a file. Their coefficients, or
    the kernels computed from them, are converted to the dtype of the features.
    """
    network = copy.deepcopy(network)
    kept = {part for module in network.modules() if isinstance(module, _FLOAT32_MODULES) for part in module.modules()}
    for module in set(network.modules()) - kept:
        for parameter in module.parameters(recurse=False):
            parameter.data = _to_half(parameter.data)
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = _to_half(buffer)
    network.register_forward_pre_hook(_inputs_to_half)
    network.register_forward_hook(_outputs_to_float)
    return network


def store_in_half(model: Any) -> None:
    """Store the float32 constants of an `onnx_ir` model in float16, in place, each before a Cast to float32.

    Runtimes compute these casts once, when they load the file. Small constants stay as they are.
    """
    (ir,) = require("onnx_ir", needed_by="ONNX export")
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        array = value.const_value.numpy()
        large = array.dtype == "float32" and array.size >= _MIN_STORED_SIZE
        if not large or abs(array).max() > torch.finfo(torch.float16).max:
            continue
        tensor = ir.tensor(array.astype("float16"), name=f"{name}_half")
        stored = ir.Value(
            name=tensor.name, shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT16), const_value=tensor
        )
        restored = ir.Value(shape=value.shape, type=value.type)
        ir.convenience.replace_all_uses_with(value, restored)
        graph.initializers.pop(name)
        restored.name = name
        graph.initializers[stored.name] = stored
        graph.insert_before(graph[0], ir.node("Cast", [stored], {"to": ir.DataType.FLOAT}, outputs=[restored]))


def _to_half(value: Any) -> Any:
    return value.half() if isinstance(value, Tensor) and value.dtype == torch.float32 else value


def _to_float(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.float16 else value


def _inputs_to_half(module: nn.Module, inputs: tuple[Any, ...]) -> Any:
    return tree_map(_to_half, inputs)


def _outputs_to_float(module: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> Any:
    return tree_map(_to_float, outputs)
