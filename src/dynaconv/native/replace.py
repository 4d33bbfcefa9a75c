"""Replaces modules of a deployed network by native programs, as few and as long as its structure allows."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from dynaconv.conversion.proxy import IdentityProxy, SequentialProxy
from dynaconv.conversion.select import is_convolution
from dynaconv.conversion.swap import all_names, replace_module
from dynaconv.deployment.backends import Precision
from dynaconv.native.lowering import lower
from dynaconv.native.program import NativeProgram
from dynaconv.native.program_builder import Builder
from dynaconv.native.recognise import Value, append, lower_module
from dynaconv.native.steps import DENSE, DEPTHWISE, UnsupportedError

_RUNS = {
    ("timm.models.efficientnet", "EfficientNet"): (("conv_stem", "bn1"), ("conv_head", "bn2")),
    ("timm.models.efficientnet", "EfficientNetFeatures"): (("conv_stem", "bn1"),),
    ("timm.models.resnet", "ResNet"): (("conv1", "bn1", "act1"),),
}
"""Attributes that a timm class runs in sequence, by the module and name of the class."""


@dataclass
class Replacement:
    """Report of `replace`.

    Attributes:
        precision: Precision of the programs.
        native: Names of the modules that became native programs.
        unsupported: Reason why each other convolution stays in torch, by its name.
    """

    precision: Precision = "float32"
    native: list[str] = field(default_factory=list)
    unsupported: dict[str, str] = field(default_factory=dict)


def replace(model: nn.Module, precision: Precision = "float32") -> tuple[nn.Module, Replacement]:
    """Replace all supported modules in place; return the network to use, a new module if that is ``model`` itself."""
    replacement = Replacement(precision)
    program = _program([model], precision)
    if program is not None:
        replacement.native.append("")
        return program, replacement
    _visit(model, "", replacement)
    return model, replacement


def restore(model: nn.Module) -> nn.Module:
    """Put the original modules back in place of native programs; return the network to use."""
    for module, names in all_names(model).items():
        if isinstance(module, NativeProgram):
            original = _original_with_hooks(module)
            if names == [""]:
                return original
            replace_module(model, names, original)
    return model


def _original_with_hooks(program: NativeProgram) -> nn.Module:
    """Return the replaced module; in a sequence that carries the program's hooks if it has any."""
    hooks = {name: hooks for name, hooks in vars(program).items() if name.startswith("_forward_") and hooks}
    if not hooks:
        return program.original
    sequence = SequentialProxy(program.original).train(program.training)
    for name, registered in hooks.items():
        getattr(sequence, name).update(registered)
    return sequence


def _visit(module: nn.Module, prefix: str, replacement: Replacement) -> None:
    _replace_runs(module, prefix, replacement)
    if type(module) is nn.Sequential:
        _replace_in_sequence(module, prefix, replacement)
    for name, child in list(module.named_children()):
        full = f"{prefix}{name}"
        if isinstance(child, NativeProgram):
            continue
        program = None if type(child) is nn.Sequential else _program([child], replacement.precision)
        if program is not None:
            setattr(module, name, program)
            replacement.native.append(full)
            continue
        _visit(child, f"{full}.", replacement)
    for name, child in module.named_children():
        if is_convolution(child):
            replacement.unsupported[f"{prefix}{name}"] = _unsupported_reason(child)


def _replace_runs(module: nn.Module, prefix: str, replacement: Replacement) -> None:
    for kind in type(module).__mro__:
        for names in _RUNS.get((kind.__module__, kind.__name__), ()):
            parts: list[Any] = [getattr(module, name, None) for name in names]
            if not all(isinstance(part, nn.Module) for part in parts):
                continue
            program = _program(parts, replacement.precision)
            if program is not None:
                setattr(module, names[0], program)
                for name, part in zip(names[1:], parts[1:], strict=True):
                    setattr(module, name, IdentityProxy(part))
                replacement.native.append(f"{prefix}{names[0]}")


def _replace_in_sequence(sequence: nn.Sequential, prefix: str, replacement: Replacement) -> None:
    """Replace each longest run of modules by one program, which takes the position of the run's first module.

    A nested sequence is a stage, whose output other code may read by its name: it stays and gets its own programs.
    """
    names = [name for name, _ in sequence.named_children()]
    start = 0
    while start < len(names):
        parts = [getattr(sequence, name) for name in names[start:]]
        stop = start + _longest_run(parts)
        program = _program(parts[: stop - start], replacement.precision)
        if program is None:
            start = max(stop, start + 1)
            continue
        setattr(sequence, names[start], program)
        for name in names[start + 1 : stop]:
            setattr(sequence, name, IdentityProxy(getattr(sequence, name)))
        replacement.native.append(f"{prefix}{names[start]}")
        start = stop


def _longest_run(parts: list[nn.Module]) -> int:
    """Return the number of modules, from the first one on, that can become one program."""
    builder, value = Builder(), Value()
    for count, part in enumerate(parts):
        try:
            if type(part) is nn.Sequential:
                return count
            value = append(builder, part, value)
        except UnsupportedError:
            return count
    return len(parts)


def _lowered(parts: list[nn.Module]) -> Builder | None:
    try:
        return lower_module(nn.Sequential(*parts))
    except UnsupportedError:
        return None


def _program(parts: list[nn.Module], precision: Precision) -> NativeProgram | None:
    builder = _lowered(parts)
    # Without a convolution or linear layer a program would only change layouts.
    if builder is None or not any(step.kind in (DENSE, DEPTHWISE) for step in builder.steps):
        return None
    # New modules are in train mode.
    original = parts[0] if len(parts) == 1 else SequentialProxy(*parts).train(parts[0].training)
    return NativeProgram(original, lower_module, precision)


def _unsupported_reason(conv: nn.Module) -> str:
    try:
        lower(conv)
    except UnsupportedError as error:
        return str(error)
    return "it has hooks or a replaced forward method"
