"""Put one layer in the place of another, wherever that stands, with all that was attached to it."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from dynaconv.conversion.stand_in import CONV2D_ATTRIBUTES, StandIn


class NormedConv2d(StandIn, nn.Sequential):
    """A dynamic convolution and the batch norm behind it, as one module.

    It takes the place of ``conv`` in blocks that have a second forward pass without their ``bn`` and a tool that folds
    ``bn`` into ``conv.weight`` for it: for a dynamic kernel that would not be the same function.
    """

    _answers = CONV2D_ATTRIBUTES

    def __init__(self, conv: nn.Module, bn: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.bn = bn

    def _replaced(self) -> nn.Module | None:
        modules: dict[str, nn.Module] = self.__dict__.get("_modules", {})
        return modules.get("conv")


def all_names(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Every name that each module has in a model."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return names


def put(model: nn.Module, names: Iterable[str], layer: nn.Module) -> None:
    """Make ``layer`` the module of each of these names."""
    for name in names:
        parent, _, child = name.rpartition(".")
        model.get_submodule(parent)._modules[child] = layer


def put_dynamic(model: nn.Module, names: tuple[str, ...], layer: nn.Module) -> None:
    """Put a dynamic layer in a static one's place; with its batch norm where a tool would fold that."""
    for name in names:
        path, _, child = name.rpartition(".")
        parent = model.get_submodule(path)
        standing = parent._modules[child]
        if isinstance(standing, NormedConv2d) and standing.conv is layer:
            # The block has another name, under which this was done.
            continue
        if is_foldable(parent, child):
            parent.conv = NormedConv2d(layer, parent.bn)  # type: ignore[arg-type]
            parent.conv.train(parent.training)
            del parent.bn
            parent.forward = parent.forward_fuse  # type: ignore[assignment]
        else:
            put(model, [name], layer)


def put_static(model: nn.Module, names: tuple[str, ...], conv: nn.Conv2d) -> None:
    """The inverse of `put_dynamic`."""
    for name in names:
        path, _, child = name.rpartition(".")
        pair = model.get_submodule(path)
        if isinstance(pair, NormedConv2d) and child == "conv":
            parent = model.get_submodule(path.rpartition(".")[0])
            # Again in the order in which the block was built.
            rest: Mapping[str, Any] = dict(parent._modules)
            parent._modules.clear()
            for key, module in rest.items():
                parent._modules[key] = conv if key == "conv" else module
                if key == "conv":
                    parent._modules["bn"] = pair.bn
            vars(parent).pop("forward", None)
        else:
            put(model, [name], conv)


def is_foldable(parent: nn.Module, child: str) -> bool:
    """Whether a module is a block of ``conv`` and ``bn`` that can be told to run without the latter."""
    return (
        child == "conv"
        and callable(getattr(parent, "forward_fuse", None))
        and isinstance(getattr(parent, "bn", None), nn.BatchNorm2d)
        and "forward" not in vars(parent)
    )
