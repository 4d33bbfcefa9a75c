"""What was converted, as JSON can hold it, and the same conversion of another network."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from dynaconv.convert.swap import carry_attachments, put_dynamic
from dynaconv.errors import ConversionError
from dynaconv.layers import LAYERS, DynamicConv2d

Record = dict[str, dict[str, Any]]


def conversion_of(model: nn.Module) -> Record:
    """Which layers of a converted network are dynamic: their names to ``family`` and ``hyperparameters``.

    Names are those of the static network. A module that is reached by two names has an entry under the first, with the
    others under ``also``.
    """
    names: dict[DynamicConv2d, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, DynamicConv2d):
            names.setdefault(module, []).append(name.replace(".conv.conv", ".conv") if _in_pair(model, name) else name)
    stems = {layer: stem for stem, layer in LAYERS.items()}
    record: Record = {}
    for layer, (first, *others) in names.items():
        record[first] = {"family": stems[type(layer)], "hyperparameters": dict(layer.hyperparameters)}
        if others:
            record[first]["also"] = others
    return record


def apply_conversion(model: nn.Module, record: Mapping[str, Any]) -> nn.Module:
    """Make the same layers of a static network dynamic, in place, their dynamic parts neutral.

    A state dict of the converted network then loads into it.

    Raises:
        ConversionError: The record is damaged, or the network lacks one of the convolutions; it is as it was.
    """
    built: list[tuple[tuple[str, ...], DynamicConv2d]] = []
    for name, entry in record.items():
        try:
            family, hyperparameters = entry["family"], dict(entry["hyperparameters"])
            names = (name, *entry.get("also", ()))
            conv = model.get_submodule(name)
            layer = LAYERS[family].from_conv(conv, **hyperparameters)  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConversionError(
                f"the record of the conversion does not fit this network at {name!r}: "
                f"{' '.join(str(error).split()).rstrip('.')}."
            ) from error
        carry_attachments(conv, layer)
        built.append((names, layer))
    for names, layer in built:
        put_dynamic(model, names, layer)
    return model


def _in_pair(model: nn.Module, name: str) -> bool:
    from dynaconv.convert.swap import NormedConv2d

    return isinstance(model.get_submodule(name.rpartition(".")[0]), NormedConv2d)
