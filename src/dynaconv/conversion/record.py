"""What was converted, as JSON can hold it, and the same conversion of another network."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from dynaconv.conversion.swap import NormedConv2d, put_dynamic
from dynaconv.errors import ConversionError, with_article
from dynaconv.families import DynamicLayer, families, family_of, get_family

Record = dict[str, dict[str, Any]]


def conversion_of(model: nn.Module) -> Record:
    """Which layers of a network are dynamic: their names to ``family`` and ``hyperparameters``.

    The hyperparameters are the options of the layer that differ from their defaults, however the layer was made. Names
    are those of the static network. A module that is reached by two names has an entry under the first, with the others
    under ``also``.

    Raises:
        ConversionError: A dynamic layer is of a class that no family has, so that no record can rebuild it.
    """
    names: dict[DynamicLayer, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, DynamicLayer):
            names.setdefault(module, []).append(name.replace(".conv.conv", ".conv") if _in_pair(model, name) else name)
    record: Record = {}
    for layer, (first, *others) in names.items():
        record[first] = {"family": _family(first, layer), "hyperparameters": layer.config.changes()}
        if others:
            record[first]["also"] = others
    return record


def apply_conversion(model: nn.Module, record: Mapping[str, Any]) -> nn.Module:
    """Make the same layers of a static network dynamic, in place, their dynamic parts neutral.

    A state dict of the converted network then loads into it.

    Raises:
        ConversionError: The record is damaged, or the network lacks one of the layers; it is as it was.
    """
    built: list[tuple[tuple[str, ...], nn.Module]] = []
    for name, entry in record.items():
        try:
            if not isinstance(entry, Mapping):
                raise TypeError(f"its entry is {entry!r}, no mapping with 'family' and 'hyperparameters'")
            family, hyperparameters = entry["family"], dict(entry["hyperparameters"])
            names = (name, *entry.get("also", ()))
            static = model.get_submodule(name)
            if isinstance(static, nn.Linear):
                layer: nn.Module = get_family(family).linear.from_linear(static, **hyperparameters)  # type: ignore[union-attr]
            else:
                layer = get_family(family).layer.from_conv(static, **hyperparameters)  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConversionError(
                f"the record of the conversion does not fit this network at {name!r}: "
                f"{' '.join(str(error).split()).rstrip('.')}."
            ) from error
        built.append((names, layer))
    for names, layer in built:
        put_dynamic(model, names, layer)
    return model


def _family(name: str, layer: DynamicLayer) -> str:
    found = family_of(layer)
    if found is not None:
        return found.name
    known = sorted(kind.__name__ for family in families() for kind in family.layers)
    raise ConversionError(
        f"{name or 'the model'!r} is {with_article(type(layer).__name__)}, which is no layer of a family, so it "
        f"cannot be recorded; the layers are {', '.join(known)}."
    )


def _in_pair(model: nn.Module, name: str) -> bool:
    return isinstance(model.get_submodule(name.rpartition(".")[0]), NormedConv2d)
