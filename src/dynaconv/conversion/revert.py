"""Converts a dynamic network that is still neutral back to the static network."""

from torch import nn

from dynaconv.conversion.copying import copied
from dynaconv.conversion.swap import all_names, restore_static
from dynaconv.errors import ConversionError, abbreviated
from dynaconv.families import DynamicLayer
from dynaconv.families.contract.checks import check_module

_MAX_SHOWN = 3


def revert(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """Return the static network that computes the same as a dynamic one whose coefficients do not depend on the input.

    `convert` makes such networks, and they remain so as long as the dynamic branches are not trained, for example while
    these are frozen.

    Args:
        model: A network with dynamic layers.
        inplace: Change ``model`` itself instead of a copy.

    Returns:
        The static network; ``model`` itself if ``inplace``.

    Raises:
        ConversionError: A layer is no longer neutral, or no layer is dynamic; the model is then unchanged.
        TypeError: ``model`` is not a module.
    """
    check_module(model)
    layers = _dynamic_layers(model)
    if not layers:
        raise ConversionError("the model has no dynamic layer, so there is nothing to revert.")
    trained = [names[0] for names, layer in layers if not layer.is_neutral]
    if trained:
        raise ConversionError(
            f"{len(trained)} of {len(layers)} dynamic layers are no longer neutral "
            f"({abbreviated([repr(name) for name in trained], most=_MAX_SHOWN)}): "
            f"their kernels depend on the input, so no static network computes the same function; `dynaconv.freeze` "
            f"makes them static at their mean kernels."
        )
    if isinstance(model, DynamicLayer):
        if inplace:
            raise ConversionError(
                "the model is itself a layer, which cannot be replaced in place; leave `inplace` out."
            )
        static: nn.Module = model.static_layer()
        return static
    target = model if inplace else copied(model)
    for names, layer in _dynamic_layers(target):
        restore_static(target, names, layer.static_layer())
    return target


def _dynamic_layers(model: nn.Module) -> list[tuple[tuple[str, ...], DynamicLayer]]:
    return [(tuple(names), layer) for layer, names in all_names(model).items() if isinstance(layer, DynamicLayer)]
