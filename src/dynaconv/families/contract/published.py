"""Checks of the metadata of a published layer against what its state shows."""

from collections.abc import Collection, Mapping
from typing import Any

from dynaconv.errors import received

GEOMETRY = ("stride", "padding", "dilation", "padding_mode")
"""Arguments of a convolution that its weights do not show."""


def not_shown(
    metadata: Mapping[str, Any], shown: Mapping[str, Any], others: Collection[str] = GEOMETRY
) -> dict[str, Any]:
    """Return the metadata that the state of a layer does not show, after a check of the rest.

    Args:
        metadata: Arguments of the published layer.
        shown: Arguments that follow from the state.
        others: Names of arguments that do not.

    Raises:
        ValueError: An argument is unknown, or is not that of the state.
    """
    for name, value in metadata.items():
        if name not in shown and name not in others:
            raise ValueError(
                f"{name}={received(value)} is no argument of this published layer; it has "
                f"{', '.join((*shown, *others))}."
            )
        if name in shown and _sides(value) != _sides(shown[name]):
            raise ValueError(f"{name}={received(value)}, but the state is that of a layer with {name}={shown[name]!r}.")
    return {name: _sides(value) for name, value in metadata.items() if name in others}


def check_hidden(name: str, value: Any, expected: int, hidden: int) -> None:
    """Raise ValueError unless the width of the branch that follows from an argument is that of the state."""
    if expected != hidden:
        raise ValueError(
            f"{name}={received(value)} gives a branch of {expected} hidden units, but the state has {hidden}."
        )


def _sides(value: Any) -> Any:
    """Return several sizes as a tuple, or as one number if they are equal."""
    sides = tuple(value) if isinstance(value, list | tuple) else (value,)
    return sides[0] if len(set(sides)) == 1 else sides
