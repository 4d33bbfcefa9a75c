"""Replaces a layer of a network by another one, under all of its names."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from dynaconv.conversion.proxy import CONV2D_ATTRIBUTES, ModuleProxy


class NormedConv2d(ModuleProxy, nn.Sequential):
    """A dynamic convolution and the batch norm after it, as one module.

    It replaces ``conv`` in blocks that have a second forward method without ``bn``, for which other tools fold ``bn``
    into ``conv.weight``. For a dynamic kernel, such folding would change the function.
    """

    _forwarded_names = CONV2D_ATTRIBUTES

    def __init__(self, conv: nn.Module, bn: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.bn = bn

    def _replaced(self) -> nn.Module | None:
        modules: dict[str, nn.Module] = self.__dict__.get("_modules", {})
        return modules.get("conv")


def all_names(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Return all names of each module of a model."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return names


def replace_module(model: nn.Module, names: Iterable[str], layer: nn.Module) -> None:
    """Replace the module under each of these names by ``layer``."""
    for name in names:
        parent, _, child = name.rpartition(".")
        model.get_submodule(parent)._modules[child] = layer


def insert_dynamic(model: nn.Module, names: tuple[str, ...], layer: nn.Module) -> None:
    """Replace a static layer by a dynamic one, together with its batch norm in blocks that other tools fold."""
    for name in names:
        path, _, child = name.rpartition(".")
        parent = model.get_submodule(path)
        current = parent._modules[child]
        if isinstance(current, NormedConv2d) and current.conv is layer:
            # The block has several names and was changed under another one.
            continue
        if is_foldable(parent, child):
            parent.conv = NormedConv2d(layer, parent.bn)  # type: ignore[arg-type]
            parent.conv.train(parent.training)
            del parent.bn
            parent.forward = parent.forward_fuse  # type: ignore[assignment]
        else:
            replace_module(model, [name], layer)


def restore_static(model: nn.Module, names: tuple[str, ...], conv: nn.Module) -> None:
    """The inverse of `insert_dynamic`."""
    for name in names:
        path, _, child = name.rpartition(".")
        pair = model.get_submodule(path)
        if isinstance(pair, NormedConv2d) and child == "conv":
            parent = model.get_submodule(path.rpartition(".")[0])
            # Restore the order in which the block was built.
            rest: Mapping[str, Any] = dict(parent._modules)
            parent._modules.clear()
            for key, module in rest.items():
                parent._modules[key] = conv if key == "conv" else module
                if key == "conv":
                    parent._modules["bn"] = pair.bn
            vars(parent).pop("forward", None)
        else:
            replace_module(model, [name], conv)


def is_foldable(parent: nn.Module, child: str) -> bool:
    """Whether ``child`` is the ``conv`` of a block with ``bn`` and a forward method without ``bn``."""
    return (
        child == "conv"
        and callable(getattr(parent, "forward_fuse", None))
        and isinstance(getattr(parent, "bn", None), nn.BatchNorm2d)
        and "forward" not in vars(parent)
    )
