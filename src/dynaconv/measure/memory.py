"""Activation memory: peak of one forward pass, and size of the tensors saved for the backward pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dynaconv.measure.modules import call_hooks, train_mode


class MemoryRecorder:
    """Context manager that tracks the bytes of every tensor returned by an operator, until its last reference.

    Each storage counts in full and once, however many views it has. Workspaces inside an operator and the overhead of
    the allocator are not counted.

    Args:
        names: Layers whose own peaks are recorded, and their names.
        excluded: Tensors that are not counted, such as parameters, buffers and the network's input.

    Attributes:
        peak_bytes: Peak of the live bytes.
        peak_layer: The layer that ran at the peak; None if the operator was outside these layers.
        layer_peaks: Peak of each layer by name: live bytes while it ran minus those at its start, that is, its output
            and its temporary tensors. The maximum over its calls.
    """

    def __init__(self, names: Mapping[nn.Module, str], excluded: Iterable[Tensor]) -> None:
        self.peak_bytes = 0
        self.peak_layer: str | None = None
        self.layer_peaks: dict[str, int] = {}
        self._names = names
        self._excluded = {key for tensor in excluded if (key := _storage_key(tensor)) is not None}
        self._live_storages: dict[int, int] = {}
        self._live_bytes = 0
        self._layer_calls: list[_LayerCall] = []
        self._mode = _OutputMode(self._add)
        self._hooks = call_hooks(names, self._before, self._after)

    def _add(self, tensor: Tensor) -> None:
        key = _storage_key(tensor)
        if key is None or key in self._excluded or key in self._live_storages:
            return
        storage = tensor.untyped_storage()
        self._live_storages[key] = storage.nbytes()
        self._live_bytes += self._live_storages[key]
        weakref.finalize(storage, self._remove, key).atexit = False
        for layer in self._layer_calls:
            layer.peak_bytes = max(layer.peak_bytes, self._live_bytes)
        if self._live_bytes > self.peak_bytes:
            self.peak_bytes = self._live_bytes
            self.peak_layer = self._layer_calls[-1].name if self._layer_calls else None

    def _remove(self, key: int) -> None:
        self._live_bytes -= self._live_storages.pop(key)

    def _before(self, module: nn.Module, args: Any) -> None:
        self._layer_calls.append(_LayerCall(self._names[module], self._live_bytes))

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        layer = self._layer_calls.pop()
        self.layer_peaks[layer.name] = max(self.layer_peaks.get(layer.name, 0), layer.peak_bytes - layer.start_bytes)

    def __enter__(self) -> MemoryRecorder:
        self._hooks.__enter__()
        self._mode.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exc: Any) -> None:
        self._mode.__exit__(*exc)  # type: ignore[no-untyped-call]
        self._hooks.__exit__(*exc)


class _LayerCall:
    """A call of a layer in progress, with the live bytes at its start and their peak so far."""

    def __init__(self, name: str, live_bytes: int) -> None:
        self.name = name
        self.start_bytes = live_bytes
        self.peak_bytes = live_bytes


class _OutputMode(TorchDispatchMode):
    """Passes every tensor that an operator returns to a callback."""

    def __init__(self, callback: Callable[[Tensor], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._callback = callback

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._callback(leaf)
        return out


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Return the bytes that one forward pass in train mode saves for the backward pass.

    Each storage counts in full and once. The network's input counts if it is saved; parameters and buffers do not.

    Args:
        model: The network, with parameters frozen as in training: tensors that only a frozen parameter's gradient
            needs are not saved. Its state does not change.
        x: Input of the network.
    """
    excluded = {_storage_key(tensor) for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        key = _storage_key(tensor)
        if key is not None and key not in excluded:
            # Keep the storage alive, so that no other storage gets the same key.
            saved[key] = tensor.untyped_storage()
        return tensor

    with train_mode(model), torch.enable_grad(), saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x)
    return sum(storage.nbytes() for storage in saved.values())


def _storage_key(tensor: Tensor) -> int | None:
    """Return a key of the tensor's storage, also on the meta device; None without a storage, as for sparse tensors."""
    if tensor.layout is not torch.strided:
        return None
    return int(tensor.untyped_storage()._cdata)
