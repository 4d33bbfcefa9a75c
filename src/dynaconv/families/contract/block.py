"""A context that the layers of a block share without a change of the block's forward method."""

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.families.contract.checks import has_shape
from dynaconv.families.contract.operator import DynamicOperator


class BlockContext:
    """The averaged input of a block's first layer, from that layer's call until each other layer has read it once.

    It is no module and has no parameters. Copies and pickles hold no tensor. Threads do not see each other's contexts,
    so the replicas of `torch.nn.DataParallel` can share one object.

    Args:
        name: Name of the first layer.
        size: Number of layers; layer 0 is the first.
    """

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.readers = tuple(range(1, size))
        self._stored: dict[int, tuple[Tensor, tuple[int, ...]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_stored": {}}

    def write(self, context: Tensor) -> None:
        """Store the context of the first layer's call, ``(B, F)``."""
        if self.readers:
            self._stored[_thread()] = (context, self.readers)

    def read(self, reader: int, x: Tensor, layer: str, *, running: bool) -> Tensor:
        """Return the context, ``(B, F)``, for layer number ``reader`` with the input ``x``.

        Args:
            reader: Number of the layer, from 1.
            x: Input of the layer, with the batch as first axis.
            layer: Name of its class, for messages.
            running: Whether this is the layer's forward pass, which reads a context once.

        Raises:
            ValueError: the first layer was not called since the layer's last call, or with another batch size.
        """
        thread = _thread()
        stored = self._stored.get(thread)
        if stored is None or reader not in stored[1]:
            raise ValueError(
                f"this {layer} reads the context of {self.name!r}, which has not run before it in this forward pass; "
                f"call the layers in the order of their block, or leave one of them out of the conversion."
            )
        context, left = stored
        if not has_shape(context, (x.shape[0], context.shape[1])):
            raise ValueError(
                f"this {layer} reads the context of {self.name!r}, whose last batch has B={context.shape[0]}, but got "
                f"an input {tuple(x.shape)} with B={x.shape[0]}; pass the same batch through both."
            )
        if running:
            left = tuple(number for number in left if number != reader)
            if left:
                self._stored[thread] = (context, left)
            else:
                del self._stored[thread]
        return context


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _thread() -> int:
    return threading.get_ident()


def join_contexts(layers: Mapping[str, nn.Module]) -> None:
    """Make the layers whose option ``shared_context`` has the same value share a context, in place.

    Args:
        layers: Layers by name; the option is the name of the layer whose averaged input the others read.

    Raises:
        ValueError: the named layer is missing, or its input has another number of channels; no layer changes.
    """
    blocks: dict[str, list[DynamicOperator]] = {}
    for name, layer in layers.items():
        first = getattr(getattr(layer, "config", None), "shared_context", None)
        if first is None or not isinstance(layer, DynamicOperator):
            continue
        source: Any = layers.get(first)
        if source is None or source.config.shared_context != first:
            raise ValueError(f"{name!r} reads the context of {first!r}, which is no dynamic layer that shares one.")
        if source.input_features != layer.context_features:
            raise ValueError(
                f"{name!r} has context_features={layer.context_features}, but the input of {first!r}, whose context it "
                f"reads, has {source.input_features} channels."
            )
        members = blocks.setdefault(first, [source])
        if layer is not source:
            members.append(layer)
    for first, members in blocks.items():
        block = BlockContext(first, len(members))
        for place, member in enumerate(members):
            member.block_context, member.place_in_block = block, place
