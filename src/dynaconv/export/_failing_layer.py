"""Finds the layer at which an export failed."""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dynaconv.measure.modules import call_hooks


def layer_at_failure(model: nn.Module, call: Callable[[], object]) -> str | None:
    """Run ``call`` again and return the module of ``model`` in which it fails, the innermost that did not return.

    Returns:
        ``'blocks.0' (Block)`` or ``the model itself (Net)``; None if ``call`` fails outside every module or succeeds.
    """
    names = {id(module): name for name, module in model.named_modules()}
    entered: list[nn.Module] = []

    def enter(module: nn.Module, _: Any) -> None:
        entered.append(module)

    def leave(module: nn.Module, _: Any, __: Any) -> None:
        # Also remove modules that raised an exception which their caller caught: no hook ran when they ended.
        while entered and entered.pop() is not module:
            pass

    with call_hooks(model.modules(), enter, leave):
        try:
            call()
        except Exception:
            return module_label(names[id(entered[-1])], entered[-1]) if entered else None
    return None


def layer_in_message(model: nn.Module, program: torch.export.ExportedProgram, message: str) -> str | None:
    """Return the layer of the first operator of ``program`` that an exporter's message names, or None.

    The layer is written as by `layer_at_failure`.
    """
    words = set(re.findall(r"[\w.]+", message))
    for node in program.graph.nodes:
        target = str(node.target)
        if node.op == "call_function" and (node.name in words or target in words or f"torch.ops.{target}" in words):
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            if stack:
                name = re.sub(r"^L\['self'\]\.?", "", str(stack[-1][0]))
                return module_label(name, model.get_submodule(name))
    return None


def module_label(name: str, module: nn.Module) -> str:
    """Return the name and class of a module for a message."""
    kind = type(module).__name__
    return f"{name!r} ({kind})" if name else f"the model itself ({kind})"
