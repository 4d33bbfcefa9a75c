"""What the network around a convolution says against making it dynamic."""

import re
from collections.abc import Iterator, Mapping

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from dynaconv.errors import with_article
from dynaconv.families.contract.static import static_refusal

_MERGERS = ("fuse_convs", "reparameterize", "switch_to_deploy", "get_equivalent_kernel_bias")
"""Methods by which blocks add up the kernels of parallel branches; of dynamic ones the weights alone do not say all."""
_GATES = re.compile(r"squeeze_?(and)?_?excit|^(effective)?se(module|layer|block)?$|^eca|cbam", re.IGNORECASE)
"""Classes that scale channels by what a 1x1 map says, for which convolutions stand as linear maps."""
_IMAGE_CHANNELS = 4


def find_stems(model: nn.Module, convolutions: Mapping[str, nn.Conv2d]) -> set[str]:
    """Names of the convolutions that read the image.

    They are those that timm names so; else the first one and, where that reads up to four channels, all that read as
    many: a network may look at its image more than once.
    """
    named = getattr(model, "pretrained_cfg", None)
    first = named.get("first_conv") if isinstance(named, Mapping) else None
    stems = {name for name in ([first] if isinstance(first, str) else first or []) if name in convolutions}
    if stems or not convolutions:
        return stems
    start, conv = next(iter(convolutions.items()))
    channels = conv.in_channels
    alike = {
        name
        for name, other in convolutions.items()
        if channels <= _IMAGE_CHANNELS and other.in_channels == channels and other.groups == 1
    }
    return {start} | alike


def ancestors(model: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of all that contain the module called ``name``, the nearest first."""
    while name:
        name = name.rpartition(".")[0]
        yield name, model.get_submodule(name)


def refusal(model: nn.Module, name: str, conv: nn.Conv2d) -> str | None:
    """Why a convolution had better stay static; None when nothing speaks against it.

    Blocks that later merge their branches and gates are left, and so is a weight that something else owns or makes.
    """
    reason = static_refusal(conv)
    if reason is not None:
        return reason
    if conv.out_channels == 1 and conv.bias is None and not conv.weight.requires_grad:
        return "a fixed weighted sum of channels"
    for outer, module in ancestors(model, name):
        merger = next((method for method in _MERGERS if callable(getattr(module, method, None))), None)
        if merger is not None and outer and any(isinstance(child, _BatchNorm) for child in module.modules()):
            return f"its {type(module).__name__} merges kernels by {merger}(); do that first"
        if _GATES.search(type(module).__name__) and outer:
            return f"part of {with_article(type(module).__name__)}"
    return None


def first_lazy(model: nn.Module) -> str | None:
    """Name of the first parameter or buffer whose size the first input will decide; None when there is none."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return next((name for name, tensor in tensors if is_lazy(tensor)), None)


def find_shared(model: nn.Module, convolutions: Mapping[str, nn.Conv2d]) -> dict[str, str]:
    """For each convolution whose weight or bias another module holds too, the full name of that other tensor."""
    owners: dict[int, list[tuple[int, str]]] = {}
    for prefix, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append((id(module), f"{prefix}.{key}" if prefix else key))
    shared = {}
    for name, conv in convolutions.items():
        for parameter in conv.parameters(recurse=False):
            others = [path for owner, path in owners.get(id(parameter), []) if owner != id(conv)]
            if others:
                shared[name] = others[0]
    return shared
