"""Lowers supported modules to steps: layers with the activation after them, timm's blocks and networks, sequences."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from dynaconv.conversion.proxy import IdentityProxy, SequentialProxy
from dynaconv.families.contract.deployed import AffineMap, DeployedBranch, DeployedConv, DeployedLayer
from dynaconv.families.contract.static import replaced_method
from dynaconv.native.lowering import activation_of, lower, mean_step, scale_step
from dynaconv.native.program_builder import Builder
from dynaconv.native.steps import ACTIVATIONS, DEPTHWISE, MAX_POOL, MEAN, Step, UnsupportedError


def append(builder: Builder, module: nn.Module, value: int) -> int:
    """Append the steps of a module that reads ``value``; return the value that they compute.

    Raises:
        UnsupportedError: The module is not supported; the builder is unchanged.
    """
    before = len(builder.steps)
    try:
        return _append(builder, module, value)
    except UnsupportedError:
        del builder.steps[before:]
        raise


def append_next(builder: Builder, module: nn.Module, value: int) -> int:
    """Append the steps of the next module of a sequence whose first module reads the builder's input.

    Returns:
        The value that the steps compute.

    Raises:
        UnsupportedError: The module is not supported; the builder may hold some of its steps.
    """
    if _has_hooks(module):
        raise UnsupportedError("it has hooks or a replaced forward method")
    return _sequence(builder, [module], value, start=0)


def _append(builder: Builder, module: nn.Module, value: int) -> int:
    if _has_hooks(module):
        raise UnsupportedError("it has hooks or a replaced forward method")
    network = _network_of(module)
    if network is not None:
        return network(builder, module, value)
    block = _BLOCKS.get((type(module).__module__, type(module).__name__))
    if block is not None:
        return block(builder, module, value)
    if type(module) in (nn.Sequential, SequentialProxy):
        return _sequence(builder, list(module.children()), value)
    if type(module) is nn.Linear or (isinstance(module, DeployedLayer) and not isinstance(module, DeployedConv)):
        raise UnsupportedError("a linear layer takes vectors, and programs start with images")
    return _add(builder, lower(module), value)


def _has_hooks(module: nn.Module) -> bool:
    """Return whether the module or a submodule has hooks or a replaced forward method, which a program would skip."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(replaced_method(m) or any(getattr(m, kind) for kind in kinds) for m in module.modules())


def _sequence(builder: Builder, modules: Sequence[nn.Module], value: int, start: int | None = None) -> int:
    """Append modules in sequence; an activation is fused into the step before it, which must come after ``start``."""
    start = value if start is None else start
    for module in modules:
        if type(module) in (nn.Identity, IdentityProxy):
            continue
        name = activation_of(module)
        if name is None:
            value = _append(builder, module, value)
        else:
            last = builder.steps[-1] if value > start else None
            free = last is not None and last.activation == ACTIVATIONS["none"] and last.kind not in (MAX_POOL, MEAN)
            if last is None or not free or value != len(builder.steps):
                raise UnsupportedError("the activation does not follow a convolution")
            last.activation = ACTIVATIONS[name]
    return value


def _fused(builder: Builder, value: int, conv: nn.Module, *following: nn.Module | None, add: int | None = None) -> int:
    """Append a convolution, fused with residual ``add`` and at most one activation; identities may follow it."""
    names = [activation_of(module) for module in following]
    active = [name for name in names if name != "none"]
    if None in names or len(active) > 1:
        raise UnsupportedError("a convolution is followed by something other than one activation")
    return _add(builder, lower(conv, *[name for name in active if name is not None]), value, add)


def _add(builder: Builder, steps: Sequence[Step], value: int, add: int | None = None) -> int:
    """Append steps that read one another; value ``add`` is added in the last one."""
    if add is not None and steps[-1].kind == DEPTHWISE:
        raise UnsupportedError("a shortcut is added to a depthwise convolution")
    for step in steps[:-1]:
        value = builder.add(step, value)
    return builder.add(steps[-1], value, add)


def _excite(builder: Builder, module: Any, value: int, *act: nn.Module | None, add: int | None = None) -> int:
    """Append a squeeze-and-excitation module of timm; nothing if it is None or an identity."""
    if module is None or type(module) is nn.Identity:
        return value
    names = _EXCITATIONS.get((type(module).__module__, type(module).__name__))
    if names is None or _has_hooks(module) or getattr(module, "add_maxpool", False):
        raise UnsupportedError(f"{type(module).__name__} has no native form")
    _require_identity(getattr(module, "bn", None))
    squeeze, between, expand, gate = (getattr(module, name) for name in names)
    activation, gate = activation_of(between), _GATES.get((type(gate).__module__, type(gate).__name__))
    linear = all(type(conv) is nn.Conv2d and conv.weight[0, 0].numel() == 1 for conv in (squeeze, expand))
    if activation in (None, "none") or gate is None or not linear:
        raise UnsupportedError("squeeze-and-excitation with parts that have no native form")
    maps = [AffineMap(conv.weight.flatten(1), conv.bias) for conv in (squeeze, expand)]
    step = scale_step(DeployedBranch({}, squeeze=maps[0], activation=str(activation)), maps[1], gate)
    for module in act:
        name = activation_of(module)
        if name is None:
            raise UnsupportedError("squeeze-and-excitation is followed by something other than one activation")
        step.activation = ACTIVATIONS[name]
    return builder.add(step, value, add)


def _excited(
    builder: Builder, value: int, conv: nn.Module, se: nn.Module | None, act: nn.Module | None, add: int
) -> int:
    """Append a convolution, squeeze-and-excitation or none, a shortcut and an activation."""
    if se is None or type(se) is nn.Identity:
        return _fused(builder, value, conv, act, add=add)
    return _excite(builder, se, _fused(builder, value, conv), act, add=add)


def _inverted_residual(builder: Builder, block: Any, value: int) -> int:
    _require_identity(block.aa, block.drop_path)
    if getattr(block, "conv_s2d", None) is not None:
        raise UnsupportedError("space to depth")
    x = _fused(builder, value, block.conv_pw, block.bn1)
    x = _excite(builder, block.se, _fused(builder, x, block.conv_dw, block.bn2))
    return _fused(builder, x, block.conv_pwl, block.bn3, add=_skip(block, value))


def _depthwise_separable(builder: Builder, block: Any, value: int) -> int:
    _require_identity(block.aa, block.drop_path)
    if getattr(block, "conv_s2d", None) is not None:
        raise UnsupportedError("space to depth")
    x = _excite(builder, block.se, _fused(builder, value, block.conv_dw, block.bn1))
    return _fused(builder, x, block.conv_pw, block.bn2, add=_skip(block, value))


def _edge_residual(builder: Builder, block: Any, value: int) -> int:
    _require_identity(block.aa, block.drop_path)
    x = _excite(builder, block.se, _fused(builder, value, block.conv_exp, block.bn1))
    return _fused(builder, x, block.conv_pwl, block.bn2, add=_skip(block, value))


def _conv_bn_act(builder: Builder, block: Any, value: int) -> int:
    _require_identity(block.aa, block.drop_path)
    return _fused(builder, value, block.conv, block.bn1, add=_skip(block, value))


def _skip(block: Any, value: int) -> int | None:
    if not block.has_skip:
        return None
    act = next(getattr(block, name) for name in ("bn3", "bn2", "bn1") if hasattr(block, name))
    if activation_of(act) != "none":
        raise UnsupportedError("there is an activation before the shortcut is added")
    return value


def _basic_block(builder: Builder, block: Any, value: int) -> int:
    _require_identity(block.aa, block.drop_path, block.drop_block, block.bn1, block.bn2)
    x = _fused(builder, value, block.conv1, block.act1)
    shortcut = value if block.downsample is None else _append(builder, block.downsample, value)
    return _excited(builder, x, block.conv2, block.se, block.act2, shortcut)


def _bottleneck(builder: Builder, block: Any, value: int) -> int:
    _require_identity(block.aa, block.drop_path, block.drop_block, block.bn1, block.bn2, block.bn3)
    x = _fused(builder, value, block.conv1, block.act1)
    x = _fused(builder, x, block.conv2, block.act2)
    shortcut = value if block.downsample is None else _append(builder, block.downsample, value)
    return _excited(builder, x, block.conv3, block.se, block.act3, shortcut)


def _efficientnet(builder: Builder, network: Any, value: int) -> int:
    parts = (network.conv_stem, network.bn1, network.blocks, network.conv_head, network.bn2)
    return _head(builder, network.global_pool, network.classifier, _sequence(builder, parts, value))


def _mobilenetv3(builder: Builder, network: Any, value: int) -> int:
    value = _sequence(builder, (network.conv_stem, network.bn1, network.blocks), value)
    _require_average(network.global_pool, nn.Identity)
    value = builder.add(mean_step(), value)
    _require_identity(network.norm_head)
    value = _fused(builder, value, network.conv_head, network.act2)
    if type(network.flatten) is not nn.Flatten:
        raise UnsupportedError("the classifier reads images")
    return _classifier(builder, network.classifier, value)


def _resnet(builder: Builder, network: Any, value: int) -> int:
    stem = (network.conv1, network.bn1, network.act1, network.maxpool)
    stages = (network.layer1, network.layer2, network.layer3, network.layer4)
    return _head(builder, network.global_pool, network.fc, _sequence(builder, (*stem, *stages), value))


def _head(builder: Builder, pool: Any, classifier: nn.Module, value: int) -> int:
    """Append timm's global pooling and the linear layer after it."""
    _require_average(pool, nn.Flatten)
    return _classifier(builder, classifier, builder.add(mean_step(), value))


def _require_average(pool: Any, flatten: type[nn.Module]) -> None:
    known = type(pool).__name__ == "SelectAdaptivePool2d" and pool.pool_type == "avg"
    if not known or type(pool.flatten) is not flatten:
        raise UnsupportedError("the classifier does not follow an average over all pixels")


def _classifier(builder: Builder, classifier: nn.Module, value: int) -> int:
    builder.flat = True
    return value if type(classifier) is nn.Identity else _add(builder, lower(classifier), value)


def _network_of(module: nn.Module) -> Callable[[Builder, Any, int], int] | None:
    """Return the function that lowers a whole network, if its forward pass is that of a supported class; else None."""
    for (path, name), network in _NETWORKS.items():
        methods = ("forward", "forward_features", "forward_head")
        owners = [getattr(getattr(type(module), method, None), "__qualname__", "") for method in methods]
        paths = {kind.__module__ for kind in type(module).__mro__ if kind.__name__ == name}
        if path in paths and owners == [f"{name}.{method}" for method in methods]:
            return network
    return None


def _require_identity(*modules: nn.Module | None) -> None:
    """Raise UnsupportedError if one of the modules is not an identity."""
    for module in modules:
        if module is not None and type(module) is not nn.Identity:
            raise UnsupportedError(f"{type(module).__name__} has no native form")


_NETWORKS: dict[tuple[str, str], Callable[[Builder, Any, int], int]] = {
    ("timm.models.efficientnet", "EfficientNet"): _efficientnet,
    ("timm.models.mobilenetv3", "MobileNetV3"): _mobilenetv3,
    ("timm.models.resnet", "ResNet"): _resnet,
}
_BLOCKS: dict[tuple[str, str], Callable[[Builder, Any, int], int]] = {
    ("timm.models._efficientnet_blocks", "InvertedResidual"): _inverted_residual,
    ("timm.models._efficientnet_blocks", "DepthwiseSeparableConv"): _depthwise_separable,
    ("timm.models._efficientnet_blocks", "EdgeResidual"): _edge_residual,
    ("timm.models._efficientnet_blocks", "ConvBnAct"): _conv_bn_act,
    ("timm.models.resnet", "BasicBlock"): _basic_block,
    ("timm.models.resnet", "Bottleneck"): _bottleneck,
}
"""Functions that lower blocks, by the module and name of the block's class, so that timm is not imported here."""
_EXCITATIONS = {
    ("timm.models._efficientnet_blocks", "SqueezeExcite"): ("conv_reduce", "act1", "conv_expand", "gate"),
    ("timm.layers.squeeze_excite", "SEModule"): ("fc1", "act", "fc2", "gate"),
}
"""Names of the parts of squeeze-and-excitation, by the module and name of the class."""
_GATES = {
    ("torch.nn.modules.activation", "Sigmoid"): "sigmoid",
    ("timm.layers.activations", "Sigmoid"): "sigmoid",
    ("torch.nn.modules.activation", "Hardsigmoid"): "hard_sigmoid",
}
