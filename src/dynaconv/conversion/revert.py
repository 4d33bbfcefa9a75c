"""From a dynamic network that is still neutral back to the static one."""

from torch import nn

from dynaconv.conversion.copying import copied
from dynaconv.conversion.swap import put_static
from dynaconv.errors import ConversionError, listed
from dynaconv.families import DynamicConv2d

_SHOWN = 3


def revert(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """Give the static network back that a dynamic one computes while its coefficients do not depend on the input.

    That is so after `convert`, and stays so while the dynamic branches are not trained: frozen, for example.

    Args:
        model: A network with dynamic convolutions.
        inplace: Change ``model`` itself instead of a copy.

    Returns:
        The static network; ``model`` itself when ``inplace``.

    Raises:
        ConversionError: A layer is not neutral any more, or none is dynamic; the model is as it was.
        TypeError: ``model`` is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` is a torch.nn.Module; got {type(model).__name__}.")
    found = _dynamic_layers(model)
    if not found:
        raise ConversionError("the model has no dynamic convolution, so there is nothing to revert.")
    moved = [names[0] for names, layer in found if not layer.is_neutral]
    if moved:
        more = f" and {len(moved) - _SHOWN} more" if len(moved) > _SHOWN else ""
        raise ConversionError(
            f"{len(moved)} of {len(found)} dynamic layers are not neutral any more ({listed(moved[:_SHOWN])}{more}): "
            f"their kernels depend on the input, so no static network computes the same."
        )
    if isinstance(model, DynamicConv2d):
        if inplace:
            raise ConversionError(
                "the model is itself a layer, which cannot be replaced in place; leave `inplace` out."
            )
        return model.static_conv()
    target = model if inplace else copied(model)
    for names, layer in _dynamic_layers(target):
        put_static(target, names, layer.static_conv())
    return target


def _dynamic_layers(model: nn.Module) -> list[tuple[tuple[str, ...], DynamicConv2d]]:
    names: dict[DynamicConv2d, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, DynamicConv2d):
            names.setdefault(module, []).append(name)
    return [(tuple(several), layer) for layer, several in names.items()]
