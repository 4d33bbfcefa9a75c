"""Replaces the clipping activations of a traced network by one operator, which torch decomposes in no time.

With free axes torch computes the shape of the output of ``hardtanh`` (so, of ReLU6) by a chain of Python functions that
compare symbolic sizes: for the 35 of MobileNetV2 a third of the whole export.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from dynaconv.export.packages import require


@torch.library.custom_op("dynaconv::clip", mutates_args=())
def _clip(x: Tensor, low: float, high: float) -> Tensor:
    return x.clamp(low, high)


@_clip.register_fake
def _(x: Tensor, low: float, high: float) -> Tensor:
    return torch.empty_like(x)


_CLIP: Any = torch.ops.dynaconv.clip.default
_HARDTANH: tuple[Any, ...] = (torch.ops.aten.hardtanh.default, torch.ops.aten.hardtanh_.default)


def clip_once(program: ExportedProgram) -> None:
    """Rewrite a traced network in place: ``hardtanh`` with floating-point bounds becomes ``dynaconv::clip``.

    An in-place ``hardtanh_`` is replaced only if nothing else reads its input.
    """
    graph = program.graph
    for node in graph.nodes:
        if node.target not in _HARDTANH or (node.target is _HARDTANH[1] and not _is_only_user(node)):
            continue
        low, high = (node.args[i] if len(node.args) > i else default for i, default in ((1, -1.0), (2, 1.0)))
        node.target, node.args, node.kwargs = _CLIP, (node.args[0], float(low), float(high)), {}
    program.graph_module.recompile()


def _is_only_user(node: Any) -> bool:
    """Return whether a node's input is a new tensor, not a view of another one, that no other node reads."""
    source = node.args[0]
    if source.op != "call_function" or len(source.users) != 1:
        return False
    schema = getattr(source.target, "_schema", None)
    return schema is not None and all(value.alias_info is None for value in schema.returns)


def clip_translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the translation table with which PyTorch's ONNX exporter writes ``dynaconv::clip``."""
    (onnxscript,) = require("onnxscript", needed_by="ONNX export")
    op = onnxscript.opset18

    def clip(x: Any, low: float, high: float) -> Any:
        return op.Clip(x, op.CastLike(op.Constant(value_float=low), x), op.CastLike(op.Constant(value_float=high), x))

    return {_CLIP: clip}
