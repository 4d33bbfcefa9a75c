"""Options of a layer. Its config defines them once; its signature and docstring are derived from the config."""

import dataclasses
import inspect
import textwrap
from collections.abc import Collection
from typing import Any

_MEANING = "meaning"
_RAISES = "    Raises:\n        ValueError: an argument is out of range or does not match the others.\n    "
"""What the docstring of a layer says that does not name its errors."""


def option(default: Any, meaning: str) -> Any:
    """Return a field of a config with its default and its description, which ``help`` shows."""
    return dataclasses.field(default=default, metadata={_MEANING: meaning})


def meanings(config: type) -> dict[str, str]:
    """Return the description of each option of a config. A field that only changes a default inherits it."""
    found: dict[str, str] = {}
    for kind in config.__mro__:
        for field in getattr(kind, "__dataclass_fields__", {}).values():
            if _MEANING in field.metadata:
                found.setdefault(field.name, field.metadata[_MEANING])
    return found


def describe(layer: type, config: type, without: Collection[str] = ()) -> None:
    """Set the signature and the docstring of a layer's class such that they name every option.

    Args:
        layer: Class of a layer. Its constructor takes ``**options``, which are replaced by the fields, or it names its
            own arguments and stays unchanged.
        config: Dataclass of the options.
        without: Options that the layer does not use.
    """
    own = list(inspect.signature(layer.__init__).parameters.values())[1:]  # type: ignore[misc]
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own):
        layer.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
        return
    fields = [field for field in dataclasses.fields(config) if field.name not in without]
    parameters = [parameter for parameter in own if parameter.kind is not parameter.VAR_KEYWORD]
    parameters += [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in fields
    ]
    layer.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    if "__doc__" in vars(layer) and layer.__doc__ is not None:
        descriptions = meanings(config)
        entries = [f"{field.name}: {descriptions[field.name]}" for field in fields]
        lines = [textwrap.fill(entry, 108, subsequent_indent="    ") for entry in entries]
        section = textwrap.indent("Options:\n" + textwrap.indent("\n".join(lines), "    ") + "\n\n", "    ")
        before, raises, after = layer.__doc__.partition("    Raises:\n")
        layer.__doc__ = before + section + raises + after if raises else f"{before}\n\n{section}{_RAISES}"
