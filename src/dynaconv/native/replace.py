"""Put native programs into a deployed network, as few and as long as its structure allows."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from dynaconv.conversion.select import is_convolution
from dynaconv.conversion.stand_in import Absorbed, Run
from dynaconv.conversion.swap import all_names, put
from dynaconv.native.lowering import lower
from dynaconv.native.program import NativeProgram
from dynaconv.native.program_builder import Builder
from dynaconv.native.recognise import append, append_next
from dynaconv.native.steps import UnsupportedError

_RUNS = {
    ("timm.models.efficientnet", "EfficientNet"): (("conv_stem", "bn1"), ("conv_head", "bn2")),
    ("timm.models.efficientnet", "EfficientNetFeatures"): (("conv_stem", "bn1"),),
    ("timm.models.resnet", "ResNet"): (("conv1", "bn1", "act1"),),
}
"""Attributes that a class of timm runs one after another, by the class's module and name."""


def lower_sequence(original: nn.Module) -> Builder:
    """The steps of a module that `recognise.append` takes."""
    builder = Builder()
    append(builder, original, 0)
    return builder


@dataclass
class Replacement:
    """What was replaced.

    Attributes:
        native: Names of the modules that run natively now.
        kept: Why each other convolution stays in torch, by its name.
    """

    native: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


def replace(model: nn.Module) -> tuple[nn.Module, Replacement]:
    """Replace all that can be, in place. ``model`` itself may be such a module; the network to use is returned."""
    found = Replacement()
    program = _program([model])
    if program is not None:
        found.native.append("")
        return program, found
    _visit(model, "", found)
    return model, found


def restore(model: nn.Module) -> nn.Module:
    """Put the modules that native programs replaced back, in place; the network to use is returned."""
    for module, names in all_names(model).items():
        if isinstance(module, NativeProgram):
            original = _with_hooks(module)
            if names == [""]:
                return original
            put(model, names, original)
    return model


def _with_hooks(program: NativeProgram) -> nn.Module:
    """What a program replaced, in a sequence of its own if the program has been given hooks since."""
    hooks = {name: hooks for name, hooks in vars(program).items() if name.startswith("_forward_") and hooks}
    if not hooks:
        return program.original
    sequence = Run(program.original).train(program.training)
    for name, theirs in hooks.items():
        getattr(sequence, name).update(theirs)
    return sequence


def _visit(module: nn.Module, prefix: str, found: Replacement) -> None:
    _replace_runs(module, prefix, found)
    if type(module) is nn.Sequential:
        _replace_in_sequence(module, prefix, found)
    for name, child in list(module.named_children()):
        full = f"{prefix}{name}"
        if isinstance(child, NativeProgram):
            continue
        program = None if type(child) is nn.Sequential else _program([child])
        if program is not None:
            setattr(module, name, program)
            found.native.append(full)
            continue
        _visit(child, f"{full}.", found)
    for name, child in module.named_children():
        if is_convolution(child):
            found.kept[f"{prefix}{name}"] = _why(child)


def _replace_runs(module: nn.Module, prefix: str, found: Replacement) -> None:
    for kind in type(module).__mro__:
        for names in _RUNS.get((kind.__module__, kind.__name__), ()):
            parts: list[Any] = [getattr(module, name, None) for name in names]
            if not all(isinstance(part, nn.Module) for part in parts):
                continue
            program = _program(parts)
            if program is not None:
                setattr(module, names[0], program)
                for name, part in zip(names[1:], parts[1:], strict=True):
                    setattr(module, name, Absorbed(part))
                found.native.append(f"{prefix}{names[0]}")


def _replace_in_sequence(sequence: nn.Sequential, prefix: str, found: Replacement) -> None:
    """The longest runs of neighbours become one program each, which stands where the first of them stood.

    A sequence inside is a stage, whose output others may read by its name: it keeps its place and its own programs.
    """
    names = [name for name, _ in sequence.named_children()]
    start = 0
    while start < len(names):
        parts = [getattr(sequence, name) for name in names[start:]]
        stop = start + _joining(parts)
        program = _program(parts[: stop - start])
        if program is None:
            start = max(stop, start + 1)
            continue
        setattr(sequence, names[start], program)
        for name in names[start + 1 : stop]:
            setattr(sequence, name, Absorbed(getattr(sequence, name)))
        found.native.append(f"{prefix}{names[start]}")
        start = stop


def _joining(parts: list[nn.Module]) -> int:
    """How many of the modules, from the first one on, make one program."""
    builder, value = Builder(), 0
    for count, part in enumerate(parts):
        try:
            if type(part) is nn.Sequential:
                return count
            value = append_next(builder, part, value)
        except UnsupportedError:
            return count
    return len(parts)


def _lowered(parts: list[nn.Module]) -> Builder | None:
    try:
        return lower_sequence(nn.Sequential(*parts))
    except UnsupportedError:
        return None


def _program(parts: list[nn.Module]) -> NativeProgram | None:
    builder = _lowered(parts)
    if builder is None or not builder.steps:
        return None
    # A new sequence would be in train mode.
    original = parts[0] if len(parts) == 1 else Run(*parts).train(parts[0].training)
    return NativeProgram(original, lower_sequence)


def _why(conv: nn.Module) -> str:
    try:
        lower(conv)
    except UnsupportedError as error:
        return str(error)
    return "it has hooks"
