"""Records of conversions, which JSON can store, and their application to a static network."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from dynaconv.conversion.adopt import find_adoptable, layer_names
from dynaconv.conversion.swap import NormedConv2d, all_names, insert_dynamic
from dynaconv.errors import ConversionError, received, with_article
from dynaconv.families import DynamicLayer, families, family_of, get_family
from dynaconv.families.contract.block import join_contexts
from dynaconv.families.contract.checks import check_module

Record = dict[str, dict[str, Any]]


def conversion_of(model: nn.Module) -> Record:
    """Return which layers of a network are dynamic: a map from names to ``family`` and ``hyperparameters``.

    The hyperparameters are the options of the layer that differ from their defaults, however the layer was made. Names
    are those of the static network. A module with several names has one entry, under the first; ``also`` lists the
    others.

    Raises:
        ConversionError: The class of a dynamic layer belongs to no family, so no record can rebuild the layer.
        TypeError: ``model`` is not a module.
    """
    check_module(model)
    record: Record = {}
    for layer, names in all_names(model).items():
        if not isinstance(layer, DynamicLayer):
            continue
        first, *others = (
            name.replace(".conv.conv", ".conv") if _in_normed_conv(model, name) else name for name in names
        )
        record[first] = {"family": _family(first, layer), "hyperparameters": layer.config.changes()}
        if others:
            record[first]["also"] = others
    return record


def apply_conversion(model: nn.Module, record: Mapping[str, Any]) -> nn.Module:
    """Make the recorded layers of a static network dynamic, in place. Their dynamic parts are neutral.

    The network can then load a state dict of the converted network.

    Raises:
        ConversionError: The record is damaged, or the network lacks one of the layers; the network is then unchanged.
        TypeError: ``model`` is not a module, or ``record`` not a mapping.
    """
    check_module(model)
    if not isinstance(record, Mapping):
        raise TypeError(f"`record` must be a mapping that conversion_of returned; got {type(record).__name__}.")
    built: list[tuple[tuple[str, ...], nn.Module]] = []
    taken: set[str] = set()
    for family in families():
        for module_names, module in find_adoptable(model, family).items():
            layers = layer_names(module_names[0], module)
            if record.keys() >= set(layers):
                taken.update(layers)
                built.append((module_names, module))
    for name, entry in record.items():
        if name in taken:
            continue
        try:
            if not isinstance(entry, Mapping):
                raise TypeError(f"its entry is {received(entry)}, not a mapping with 'family' and 'hyperparameters'")
            family, hyperparameters = entry["family"], dict(entry["hyperparameters"])
            names = (name, *entry.get("also", ()))
            layer = get_family(family).from_static(model.get_submodule(name), **hyperparameters)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConversionError(
                f"the record of the conversion does not fit this network at {name!r}: "
                f"{' '.join(str(error).split()).rstrip('.')}."
            ) from error
        built.append((names, layer))
    _join([layer for _, layer in built])
    try:
        join_contexts({names[0]: layer for names, layer in built})
    except ValueError as error:
        raise ConversionError(f"the record of the conversion does not fit this network: {error}") from error
    for names, layer in built:
        insert_dynamic(model, names, layer)
    return model


def _join(layers: list[nn.Module]) -> None:
    """Make the layers share what their families share."""
    for family in families():
        members = [layer for layer in layers if isinstance(layer, family.layers)]
        try:
            family.join(members)
        except ValueError as error:
            raise ConversionError(f"the record of the conversion does not fit this network: {error}") from error


def _family(name: str, layer: DynamicLayer) -> str:
    found = family_of(layer)
    if found is not None:
        return found.name
    known = ", ".join(sorted(family.name for family in families()))
    raise ConversionError(
        f"{name or 'the model'!r} is {with_article(type(layer).__name__)}, which belongs to no family and "
        f"cannot be recorded; use a layer of {known}, or register its family."
    )


def _in_normed_conv(model: nn.Module, name: str) -> bool:
    return isinstance(model.get_submodule(name.rpartition(".")[0]), NormedConv2d)
