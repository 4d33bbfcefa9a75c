"""Selects convolutions and linear layers by name, kind, size, position or predicate."""

import fnmatch
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from dynaconv.conversion.kinds import KINDS, Static, channels_of, kernel_size_of, kind_of
from dynaconv.errors import ConversionError, counted, listed, nearest_names, received, with_article
from dynaconv.families.contract.checks import check_choice
from dynaconv.families.contract.convolution import DynamicConvolution
from dynaconv.families.contract.linear import DynamicLinear
from dynaconv.families.contract.static import static_class
from dynaconv.families.family import Kind

Pattern = str | re.Pattern[str]
Predicate = Callable[[str, Any], bool]
_WHAT = {False: "convolution", True: "layer"}
"""What can be selected, without and with linear layers."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Conditions on the layers to convert.

    Attributes:
        include, exclude: Patterns of full module names: shell-style (``layer4.*``, where ``*`` also matches dots) or
            compiled regular expressions, which may match anywhere. An empty ``include`` selects every name.
        kinds: Kinds to convert.
        kernel_sizes: Side lengths of the kernels to convert, such as ``(3, 5)``; None for all.
        min_channels, max_channels: Bounds of ``min(in_channels, out_channels)``.
        position: Slice of the layers that meet the other conditions, in module order; ``slice(-10, None)``
            selects the last ten.
        predicate: Further condition, called with the name and the layer.
    """

    include: tuple[Pattern, ...] = ()
    exclude: tuple[Pattern, ...] = ()
    kinds: tuple[Kind, ...] = KINDS
    kernel_sizes: tuple[int, ...] | None = None
    min_channels: int | None = None
    max_channels: int | None = None
    position: slice | None = None
    predicate: Predicate | None = None

    def refusal(self, names: Iterable[str], static: Static) -> str | None:
        """Return which condition other than ``position`` a layer of these names fails; None if it fails none."""
        names = tuple(names)
        if self.include and not any(matches(pattern, name) for pattern in self.include for name in names):
            return "not included"
        if any(matches(pattern, name) for pattern in self.exclude for name in names):
            return "excluded"
        kind = kind_of(static)
        if kind not in self.kinds:
            return f"{kind}, not among the kinds"
        if self.kernel_sizes is not None and not set(kernel_size_of(static)) <= set(self.kernel_sizes):
            return f"its kernel is not among kernel_sizes={self.kernel_sizes!r}"
        channels = min(channels_of(static))
        if self.min_channels is not None and channels < self.min_channels:
            return f"fewer than {self.min_channels} channels"
        if self.max_channels is not None and channels > self.max_channels:
            return f"more than {self.max_channels} channels"
        if self.predicate is not None and not self.predicate(names[0], static):
            return "rejected by the predicate"
        return None

    def includes_by_name(self, names: Iterable[str]) -> bool:
        """Whether ``include`` holds one of these names in full."""
        return any(isinstance(pattern, str) and pattern == name for pattern in self.include for name in names)

    def check_patterns(self, model: nn.Module) -> None:
        """Check that every pattern matches a convolution or, if they are selected, a linear layer.

        Raises:
            ConversionError: A pattern matches none.
        """
        modules = dict(model.named_modules(remove_duplicate=False))
        with_linear = "linear" in self.kinds
        layers = [name for name, module in modules.items() if _is_selectable(module, linear=with_linear)]
        for argument in ("include", "exclude"):
            for pattern in getattr(self, argument):
                if any(matches(pattern, name) for name in layers):
                    continue
                shown = pattern if isinstance(pattern, str) else pattern.pattern
                matched = next((name for name in modules if name and matches(pattern, name)), None)
                if matched is not None:
                    raise ConversionError(_no_layer(argument, shown, matched, modules[matched], linear=with_linear))
                near = listed(nearest_names(shown, layers, count=1))
                raise ConversionError(
                    f"no module matches {argument}={shown!r}; the model has {counted(len(layers), _WHAT[with_linear])}"
                    + (f", the nearest name is {near}." if near else ".")
                )


def is_convolution(module: nn.Module) -> bool:
    """Whether a module is a convolution, static or dynamic."""
    return isinstance(module, DynamicConvolution) or static_class(module) is not None


def matches(pattern: Pattern, name: str) -> bool:
    """Whether a pattern matches a full module name."""
    return fnmatch.fnmatchcase(name, pattern) if isinstance(pattern, str) else pattern.search(name) is not None


def _is_selectable(module: nn.Module, *, linear: bool) -> bool:
    return is_convolution(module) or (linear and isinstance(module, nn.Linear | DynamicLinear))


def _no_layer(argument: str, shown: str, matched: str, module: nn.Module, *, linear: bool) -> str:
    inside = [name for name, child in module.named_modules() if name and _is_selectable(child, linear=linear)]
    what = f"{argument}={shown!r} matches {matched!r}, {with_article(type(module).__name__)}"
    if inside:
        return f"{what} that holds {len(inside)} {_WHAT[linear]}s; write '{matched}.*' to match them."
    if isinstance(module, nn.Linear):
        return f"{what}; linear layers are made dynamic if `kinds` has 'linear'."
    return f"{what}; only convolutions and linear layers can be made dynamic."


def as_patterns(argument: str, given: object, *, optional: bool = True) -> tuple[Pattern, ...]:
    """Return one or several patterns as a tuple; an empty one for None, if the argument is optional.

    Raises:
        TypeError: ``given`` is neither.
        ConversionError: ``given`` is empty.
    """
    if given is None and optional:
        return ()
    several = (given,) if isinstance(given, str | re.Pattern) else given
    if not isinstance(several, Iterable):
        raise TypeError(f"`{argument}` must be one or several patterns; got {received(given)}.")
    patterns = tuple(several)
    for pattern in patterns:
        if not isinstance(pattern, str | re.Pattern) or not pattern:
            raise TypeError(
                f"`{argument}` takes names, shell patterns and compiled expressions; got {received(pattern)}."
            )
    if not patterns:
        advice = "leave it out to set no condition" if optional else "give at least one"
        raise ConversionError(f"`{argument}` is empty; {advice}.")
    return patterns


def as_kinds(given: object) -> tuple[Kind, ...]:
    """Return one or several kinds as a tuple.

    Raises:
        ConversionError: A kind is unknown, or there is none.
    """
    several = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Iterable) else (given,)
    for kind in several:
        check_choice("each of `kinds`", kind, KINDS, error=ConversionError)
    if not several:
        raise ConversionError("`kinds` is empty; leave it out for the kinds of the family.")
    return several
