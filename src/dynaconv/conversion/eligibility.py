"""Reasons in the surrounding network against making a layer dynamic."""

import re
from collections.abc import Iterator, Mapping

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from dynaconv.conversion.kinds import Static, channels_of
from dynaconv.errors import with_article
from dynaconv.families.contract.static import static_refusal

_REPARAMETERIZATION_METHODS = ("fuse_convs", "reparameterize", "switch_to_deploy", "get_equivalent_kernel_bias")
"""Methods by which blocks add up the weights of parallel branches. For dynamic kernels that sum is not their sum."""
_CHANNEL_ATTENTION = re.compile(
    r"squeeze_?(and)?_?excit|^(effective)?se(module|layer|block)?$|^eca|cbam", re.IGNORECASE
)
"""Names of channel-attention modules, in which 1x1 convolutions serve as linear maps."""
_READS_WEIGHTS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Modules of torch that give the weights of their linear layers to a function, without a call of the layers."""
_MAX_IMAGE_CHANNELS = 4


def find_stems(model: nn.Module, convolutions: Mapping[str, _ConvNd]) -> set[str]:
    """Return the names of the convolutions that read the image.

    These are the ``first_conv`` of timm's ``pretrained_cfg``. Without it, they are the first convolution and, if that
    has at most four input channels, all ungrouped convolutions with as many input channels, because a network may read
    its image more than once.
    """
    config = getattr(model, "pretrained_cfg", None)
    first = config.get("first_conv") if isinstance(config, Mapping) else None
    stems = {name for name in ([first] if isinstance(first, str) else first or []) if name in convolutions}
    if stems or not convolutions:
        return stems
    first_name, conv = next(iter(convolutions.items()))
    channels = conv.in_channels
    alike = {
        name
        for name, other in convolutions.items()
        if channels <= _MAX_IMAGE_CHANNELS and other.in_channels == channels and other.groups == 1
    }
    return {first_name} | alike


def ancestors(model: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the name and module of every ancestor of the module called ``name``, the nearest first."""
    while name:
        name = name.rpartition(".")[0]
        yield name, model.get_submodule(name)


def refusal(model: nn.Module, name: str, static: Static) -> str | None:
    """Return why a layer should stay static; None if it can become dynamic.

    It should if it is in a channel-attention module or in a block that merges its branches later, if it is a fixed
    weighted sum, if a module reads its weight without calling it, or if a dynamic layer cannot take over its class or
    its weight.
    """
    reason = static_refusal(static)
    if reason is not None:
        return reason
    if channels_of(static)[1] == 1 and static.bias is None and not static.weight.requires_grad:
        return "a fixed weighted sum of channels"
    for outer, module in ancestors(model, name):
        if isinstance(module, _READS_WEIGHTS) and isinstance(static, nn.Linear):
            return f"its {type(module).__name__} reads its weight without calling it"
        method = next(
            (method for method in _REPARAMETERIZATION_METHODS if callable(getattr(module, method, None))), None
        )
        if method is not None and outer and any(isinstance(child, _BatchNorm) for child in module.modules()):
            return f"its {type(module).__name__} merges kernels in {method}(); call that first"
        if _CHANNEL_ATTENTION.search(type(module).__name__) and outer:
            return f"part of {with_article(type(module).__name__)}"
    return None


def first_lazy(model: nn.Module) -> str | None:
    """Return the name of the first uninitialised lazy parameter or buffer; None if there is none."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return next((name for name, tensor in tensors if is_lazy(tensor)), None)


def find_shared(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, str]:
    """Map each layer that shares its weight or bias with another module to that tensor's name there."""
    owners: dict[int, list[tuple[int, str]]] = {}
    for prefix, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append((id(module), f"{prefix}.{key}" if prefix else key))
    shared = {}
    for name, layer in layers.items():
        for parameter in layer.parameters(recurse=False):
            others = [path for owner, path in owners.get(id(parameter), []) if owner != id(layer)]
            if others:
                shared[name] = others[0]
    return shared
