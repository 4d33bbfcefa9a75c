"""Activation memory: what one forward pass holds at its peak, and what training keeps for the backward pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dynaconv.analysis._units import train_mode


class MemoryRecorder:
    """A context that follows the bytes of every tensor an operator returns, from the operator to its last reference.

    A tensor counts with its whole storage, once however many views it has. What an operator uses inside is not seen,
    nor is what the allocator keeps. Parameters, buffers and the network's input are not counted.

    Args:
        names: Layers to look at by themselves, and their names.
        known: Tensors that are not counted.

    Attributes:
        peak_bytes: The most that was held at once.
        peak_layer: The layer that ran when it was; None for an operator outside any of the layers.
        layer_peaks: By name, the most that was held at once while the layer ran beyond what was held when it started:
            its output and its temporary tensors. The greatest of its calls.
    """

    def __init__(self, names: Mapping[nn.Module, str], known: Iterable[Tensor]) -> None:
        self.peak_bytes = 0
        self.peak_layer: str | None = None
        self.layer_peaks: dict[str, int] = {}
        self._names = names
        self._known = {key for tensor in known if (key := _storage_key(tensor)) is not None}
        self._live: dict[int, int] = {}
        self._now = 0
        self._running: list[_Running] = []
        self._mode = _EachOperator(self._seen)
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def _seen(self, tensor: Tensor) -> None:
        key = _storage_key(tensor)
        if key is None or key in self._known or key in self._live:
            return
        storage = tensor.untyped_storage()
        self._live[key] = storage.nbytes()
        self._now += self._live[key]
        weakref.finalize(storage, self._freed, key).atexit = False
        for layer in self._running:
            layer.peak = max(layer.peak, self._now)
        if self._now > self.peak_bytes:
            self.peak_bytes = self._now
            self.peak_layer = self._running[-1].name if self._running else None

    def _freed(self, key: int) -> None:
        self._now -= self._live.pop(key)

    def _before(self, module: nn.Module, args: Any) -> None:
        self._running.append(_Running(self._names[module], self._now))

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        layer = self._running.pop()
        self.layer_peaks[layer.name] = max(self.layer_peaks.get(layer.name, 0), layer.peak - layer.start)

    def __enter__(self) -> MemoryRecorder:
        for module in self._names:
            self._handles.append(module.register_forward_pre_hook(self._before))
            self._handles.append(module.register_forward_hook(self._after))
        self._mode.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exc: Any) -> None:
        self._mode.__exit__(*exc)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()


class _Running:
    def __init__(self, name: str, now: int) -> None:
        self.name = name
        self.start = now
        self.peak = now


class _EachOperator(TorchDispatchMode):
    """Shows every tensor that an operator returns."""

    def __init__(self, see: Callable[[Tensor], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._see = see

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return out


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes that one forward pass in train mode keeps for the backward pass.

    Each storage counts once and whole. The network's input counts where it is kept; parameters and buffers do not.

    Args:
        model: As it is set to be trained: what a frozen parameter does not need is not kept. Left as it was.
        x: Its input.
    """
    own = {_storage_key(tensor) for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        key = _storage_key(tensor)
        if key is not None and key not in own:
            # The storage itself, so that its key is not given to another while we count.
            kept[key] = tensor.untyped_storage()
        return tensor

    with train_mode(model), torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        model(x)
    return sum(storage.nbytes() for storage in kept.values())


def _storage_key(tensor: Tensor) -> int | None:
    """Tells storages apart, on the meta device too; None for a tensor that has none, such as a sparse one."""
    if tensor.layout is not torch.strided:
        return None
    return int(tensor.untyped_storage()._cdata)
