"""Lowers the graph of a module to steps: layers by their deployed form, and the operations between them."""

import dataclasses
import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from dynaconv.conversion.proxy import IdentityProxy
from dynaconv.families.contract.deployed import AffineMap, DeployedBranch, DeployedConv, DeployedLayer
from dynaconv.native.lowering import lower, scale_step
from dynaconv.native.program_builder import Builder
from dynaconv.native.static_layers import activation_of, mean_step, norm_step, scale_outputs
from dynaconv.native.steps import ACTIVATIONS, DENSE, MAX_POOL, MEAN, SCALE, Step, UnsupportedError
from dynaconv.native.trace import trace

_Kind = tuple[str, str]
"""Module and name of a class of timm or torchvision, which are not imported here."""


@dataclass(frozen=True)
class Value:
    """Result of a step, or the input of the program.

    Attributes:
        number: Its number in the builder.
        layout: ``images`` ``(B, C, H, W)``, ``tokens`` ``(B, H, W, C)`` or ``vectors`` ``(B, C)``.
        single: Whether images have one pixel.
    """

    number: int = 0
    layout: Literal["images", "tokens", "vectors"] = "images"
    single: bool = False


def lower_module(original: nn.Module) -> Builder:
    """Return a builder with the steps of a module that maps images.

    Raises:
        UnsupportedError: The kernels do not support the module.
    """
    builder = Builder()
    out = append(builder, original, Value())
    if out.layout == "tokens" or out.number != len(builder.steps):
        raise UnsupportedError("its output is not that of its last layer")
    builder.flat = out.layout == "vectors"
    return builder


def append(builder: Builder, module: nn.Module, value: Value) -> Value:
    """Append the steps of a module that is the only reader of ``value``; return the value that they compute.

    Raises:
        UnsupportedError: The kernels do not support the module; the builder may hold some of its steps.
    """
    return _Lowering(builder, *trace(module, _is_known)).run(value)


class _Lowering:
    """Lowers one graph, node by node."""

    def __init__(self, builder: Builder, root: nn.Module, graph: fx.Graph) -> None:
        self.builder, self.root, self.graph = builder, root, graph
        self.values: dict[fx.Node, Value | Tensor] = {}

    def run(self, value: Value) -> Value:
        """Lower all nodes; return the output."""
        inputs = [node for node in self.graph.nodes if node.op == "placeholder"]
        if len(inputs) != 1:
            raise UnsupportedError("it takes several inputs")
        self._remove_identities()
        self.values[inputs[0]] = value
        for node in self.graph.nodes:
            if node.op == "output":
                return self._value(node.args[0])
            if node.op != "placeholder":
                self.values[node] = self._lower(node)
        raise UnsupportedError("it has no output")

    def _remove_identities(self) -> None:
        for node in list(self.graph.nodes):
            if node.op == "call_module" and _is_identity(self.root.get_submodule(node.target)):
                node.replace_all_uses_with(node.all_input_nodes[0])
                self.graph.erase_node(node)

    def _lower(self, node: fx.Node) -> Value | Tensor:
        if node.op == "get_attr":
            return self._constant(node.target)
        if node.op == "call_module":
            module = self.root.get_submodule(str(node.target))
            if len(node.args) != 1 or node.kwargs:
                raise UnsupportedError(f"{type(module).__name__} is called with several arguments")
            return self._module(module, node.args[0])
        function = _OPERATIONS.get(node.target)
        if function is None:
            raise UnsupportedError(f"{getattr(node.target, '__name__', node.target)} has no native form")
        try:
            inspect.signature(function).bind(self, *node.args, **node.kwargs)
        except TypeError as error:
            raise UnsupportedError(f"{node.name} is called with arguments that have no native form") from error
        return function(self, *node.args, **node.kwargs)

    def _constant(self, target: Any) -> Tensor:
        owner, _, name = str(target).rpartition(".")
        constant = getattr(self.root.get_submodule(owner), name)
        assert isinstance(constant, Tensor)
        return constant.detach()

    def _module(self, module: nn.Module, source: Any) -> Value:
        value, name = self._value(source), activation_of(module)
        if name is not None:
            return self.activate(source, name)
        if _kind(module) in _EXCITATIONS:
            return self._add(value, [_excitation(module)])
        if type(module) is nn.Flatten and module.end_dim == -1:
            return self.flatten(source, module.start_dim)
        if type(module) is nn.AdaptiveAvgPool2d:
            return self.average(source, module.output_size)
        if _kind(module) == _SELECT_POOL:
            return self._select_pool(source, module)
        if isinstance(module, nn.LayerNorm):
            if (value.layout == "images") is not (_kind(module) in _IMAGE_NORMS):
                raise UnsupportedError("a layer norm that is not over the channels")
            return self._add(value, [norm_step(module)])
        linear = isinstance(module, nn.Linear) or _is_dynamic_linear(module)
        if value.layout not in (("vectors", "tokens") if linear else ("images",)):
            raise UnsupportedError(f"{type(module).__name__} of {value.layout}")
        if value.layout == "tokens" and isinstance(module, DeployedLayer):
            raise UnsupportedError("a dynamic linear layer of tokens")
        return self._add(value, lower(module))

    def _select_pool(self, source: Any, pool: Any) -> Value:
        if pool.pool_type != "avg" or type(pool.flatten) not in (nn.Identity, nn.Flatten):
            raise UnsupportedError("pooling other than an average over all pixels")
        value = self.average(source, 1)
        return value if type(pool.flatten) is nn.Identity else _flat(value)

    def _value(self, node: Any) -> Value:
        value = self.values.get(node) if isinstance(node, fx.Node) else None
        if not isinstance(value, Value):
            raise UnsupportedError("its forward pass computes something other than one value")
        return value

    def _add(self, value: Value, steps: list[Step]) -> Value:
        """Add steps that read one another, the first one ``value``."""
        number, single = value.number, value.single
        for step in steps:
            number = self.builder.add(step, number)
            height, stride_h, width, stride_w = self.builder.steps[-1].resize
            single = single and not (1 + height) // stride_h and not (1 + width) // stride_w if stride_h else True
        return dataclasses.replace(value, number=number, single=single)

    def _open_step(self, node: Any) -> Step:
        """Return the step that computes a node which one other node alone reads, and to which it can be added.

        Raises:
            UnsupportedError: There is no such step.
        """
        number = self._value(node).number
        step = self.builder.steps[number - 1] if number else None
        if step is None or step.activation != ACTIVATIONS["none"] or not self._is_read_once(node):
            raise UnsupportedError("an operation does not follow a layer whose result it alone reads")
        return step

    def _channels(self, value: Value) -> int | None:
        if value.number:
            return self.builder.steps[value.number - 1].out_channels
        return next((step.in_channels for step in self.builder.steps if step.source == 0), None)

    def _is_read_once(self, node: fx.Node) -> bool:
        # A permuted value is the same one.
        aliased = node.target in ("permute", torch.permute) and not self._is_read_once(node.all_input_nodes[0])
        return len(node.users) == 1 and not aliased

    def activate(self, node: Any, name: str) -> Value:
        """Fuse an activation into the step before it."""
        step = self._open_step(node)
        if step.kind in (MAX_POOL, MEAN):
            raise UnsupportedError("the activation does not follow a layer")
        step.activation = ACTIVATIONS[name]
        return self._value(node)

    def add(self, first: Any, second: Any) -> Value:
        """Fuse a sum of two values into the step that computes the later one."""
        other, node = sorted((first, second), key=lambda each: self._value(each).number)
        value, added = self._value(node), self._value(other)
        step = self._open_step(node)
        if value.number == added.number:
            raise UnsupportedError("a sum of a value with itself")
        if (value.layout, value.single) != (added.layout, added.single) or self._channels(added) != step.out_channels:
            raise UnsupportedError("a sum of two values of different shapes")
        if step.kind not in (DENSE, SCALE) or step.residual >= 0:
            raise UnsupportedError("a sum in which the later value has no form that another can be added to")
        step.residual = added.number
        return value

    def multiply(self, first: Any, second: Any) -> Value:
        """Fuse a constant factor of each channel into the step before it."""
        node, factor = (second, first) if isinstance(self.values.get(first), Tensor) else (first, second)
        step, constant, layout = self._open_step(node), self.values.get(factor), self._value(node).layout
        per_channel = (step.out_channels, 1, 1) if layout == "images" else (step.out_channels,)
        if not isinstance(constant, Tensor) or constant.numel() != step.out_channels:
            raise UnsupportedError("a product with something other than a constant for each channel")
        if tuple(constant.shape[-len(per_channel) :]) != per_channel:
            raise UnsupportedError(f"a product of {layout} with a constant of shape {tuple(constant.shape)}")
        scale_outputs(step, constant.flatten())
        return self._value(node)

    def permute(self, node: Any, *order: Any) -> Value:
        """Change between images and tokens, which are the same to the kernels."""
        value = self._value(node)
        order = tuple(order[0] if len(order) == 1 else order)
        changes = {("images", (0, 2, 3, 1)): "tokens", ("tokens", (0, 3, 1, 2)): "images"}
        layout: Any = changes.get((value.layout, order))
        if layout is None:
            raise UnsupportedError(f"a permutation {order} of {value.layout}")
        return dataclasses.replace(value, layout=layout)

    def average(self, node: Any, output_size: Any) -> Value:
        """Add the average over all pixels."""
        if output_size not in (1, (1, 1), [1, 1]):
            raise UnsupportedError("pooling to more than one pixel")
        return self._mean(self._value(node))

    def mean(self, node: Any, dim: Any, keepdim: bool = False) -> Value:
        """Add the average over both axes of pixels."""
        if tuple(dim if isinstance(dim, list | tuple) else (dim,)) not in ((2, 3), (-2, -1)):
            raise UnsupportedError("a mean over something other than all pixels")
        value = self._mean(self._value(node))
        return value if keepdim else dataclasses.replace(value, layout="vectors")

    def _mean(self, value: Value) -> Value:
        if value.layout != "images":
            raise UnsupportedError(f"pooling of {value.layout}")
        return self._add(value, [mean_step()])

    def flatten(self, node: Any, start_dim: int = 0, end_dim: int = -1) -> Value:
        """Change images of one pixel to vectors."""
        if (start_dim, end_dim) != (1, -1):
            raise UnsupportedError("flattening of other axes than those behind the batch")
        return _flat(self._value(node))

    def reshape(self, node: Any, *shape: Any) -> Tensor:
        """Reshape a constant."""
        constant = self.values.get(node)
        if not isinstance(constant, Tensor):
            raise UnsupportedError("a change of shape")
        return constant.reshape(*shape)

    def dropout(self, node: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
        """Leave out dropout in eval mode."""
        if training:
            raise UnsupportedError("dropout that is active")
        return self._value(node)


def _flat(value: Value) -> Value:
    if value.layout != "images" or not value.single:
        raise UnsupportedError("flattening something other than images of one pixel")
    return dataclasses.replace(value, layout="vectors")


def _kind(module: nn.Module) -> _Kind:
    return type(module).__module__, type(module).__name__


def _is_dynamic_linear(module: nn.Module) -> bool:
    return isinstance(module, DeployedLayer) and not isinstance(module, DeployedConv)


def _is_identity(module: nn.Module) -> bool:
    return type(module) in (nn.Identity, IdentityProxy, nn.Dropout, nn.Dropout2d) or _kind(module) in _IDENTITIES


def _is_known(module: nn.Module) -> bool:
    """Return whether the graph has calls of a module, which is not one of torch, in place of its contents."""
    return isinstance(module, DeployedLayer | IdentityProxy) or _kind(module) in _KNOWN


def _excitation(module: Any) -> Step:
    """Return the step of a squeeze-and-excitation module of timm or torchvision."""
    squeeze, between, expand, gate = (getattr(module, name) for name in _EXCITATIONS[_kind(module)])
    activation, gate = activation_of(between), _GATES.get(_kind(gate))
    linear = all(type(conv) is nn.Conv2d and conv.weight[0, 0].numel() == 1 for conv in (squeeze, expand))
    other = getattr(module, "add_maxpool", False) or type(getattr(module, "bn", nn.Identity())) is not nn.Identity
    if activation in (None, "none") or gate is None or not linear or other:
        raise UnsupportedError("squeeze-and-excitation with parts that have no native form")
    maps = [AffineMap(conv.weight.flatten(1), conv.bias) for conv in (squeeze, expand)]
    return scale_step(DeployedBranch({}, squeeze=maps[0], activation=str(activation)), maps[1], gate)


_EXCITATIONS: dict[_Kind, tuple[str, ...]] = {
    ("timm.models._efficientnet_blocks", "SqueezeExcite"): ("conv_reduce", "act1", "conv_expand", "gate"),
    ("timm.layers.squeeze_excite", "SEModule"): ("fc1", "act", "fc2", "gate"),
    ("torchvision.ops.misc", "SqueezeExcitation"): ("fc1", "activation", "fc2", "scale_activation"),
}
"""Names of the parts of squeeze-and-excitation."""
_GATES: dict[_Kind, str] = {
    ("torch.nn.modules.activation", "Sigmoid"): "sigmoid",
    ("timm.layers.activations", "Sigmoid"): "sigmoid",
    ("torch.nn.modules.activation", "Hardsigmoid"): "hard_sigmoid",
}
_IDENTITIES: set[_Kind] = {("timm.layers.drop", "DropPath"), ("torchvision.ops.stochastic_depth", "StochasticDepth")}
_IMAGE_NORMS: set[_Kind] = {("timm.layers.norm", "LayerNorm2d"), ("torchvision.models.convnext", "LayerNorm2d")}
_SELECT_POOL: _Kind = ("timm.layers.adaptive_avgmax_pool", "SelectAdaptivePool2d")
_KNOWN: set[_Kind] = {
    *_EXCITATIONS,
    *_IDENTITIES,
    *_IMAGE_NORMS,
    _SELECT_POOL,
    ("timm.layers.norm", "LayerNorm"),
    ("timm.layers.linear", "Linear"),
}


def _gelu(lowering: _Lowering, node: Any, approximate: str = "none") -> Value:
    if approximate != "none":
        raise UnsupportedError("an approximate GELU")
    return lowering.activate(node, "gelu")


def _activation(name: str) -> Callable[..., Value]:
    def activate(lowering: _Lowering, node: Any, inplace: bool = False) -> Value:
        return lowering.activate(node, name)

    return activate


_OPERATIONS: dict[Any, Callable[..., Value | Tensor]] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _Lowering.add),
    **dict.fromkeys((operator.mul, torch.mul, "mul"), _Lowering.multiply),
    **dict.fromkeys((torch.permute, "permute"), _Lowering.permute),
    **dict.fromkeys((torch.flatten, "flatten"), _Lowering.flatten),
    **dict.fromkeys((torch.mean, "mean"), _Lowering.mean),
    **dict.fromkeys(("reshape", "view"), _Lowering.reshape),
    **dict.fromkeys((F.relu, torch.relu, "relu"), _activation("relu")),
    F.relu6: _activation("relu6"),
    F.silu: _activation("silu"),
    F.gelu: _gelu,
    F.hardswish: _activation("hardswish"),
    F.adaptive_avg_pool2d: _Lowering.average,
    F.dropout: _Lowering.dropout,
}
"""Functions, and methods by name. One that is called with an argument which is not here is an error of its own."""
