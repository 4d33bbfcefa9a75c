"""Which batch norm reads which convolution and nothing else does: watched while the network runs, not guessed."""

import gc
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dynaconv.families.contract.static import replaced_method, static_refusal, weight_refusal

_PLAIN_NORMS = (nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward)
_NORMS_WITH_ACTIVATION = ("BatchNormAct2d", "SyncBatchNormAct", "FrozenBatchNormAct2d")
_FROZEN_NORM = "FrozenBatchNorm2d"


def is_norm(module: nn.Module) -> bool:
    """Whether it is a batch norm over images: torch's, timm's with an activation, or torchvision's frozen one."""
    known = _class_in(module, (_FROZEN_NORM, *_NORMS_WITH_ACTIVATION))
    return known is not None or isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm)


def after_norm(norm: nn.Module) -> nn.Module | None:
    """What remains of a norm once a convolution has taken its scale and shift; None for a norm of unknown kind."""
    if type(norm).forward in _PLAIN_NORMS or _class_in(norm, (_FROZEN_NORM,)) == type(norm).__name__:
        return nn.Identity()
    if _class_in(norm, _NORMS_WITH_ACTIVATION) != type(norm).__name__:
        return None
    rest = [part for part in (norm.drop, norm.act) if not isinstance(part, nn.Identity)]
    assert all(isinstance(part, nn.Module) for part in rest)
    if len(rest) == 1:
        return rest[0]  # type: ignore[return-value]
    return nn.Sequential(*rest) if rest else nn.Identity()  # type: ignore[arg-type]


def _class_in(module: nn.Module, names: tuple[str, ...]) -> str | None:
    """The name among ``names`` that a class of timm or torchvision among the module's has."""
    for kind in type(module).__mro__:
        if kind.__name__ in names and kind.__module__.split(".")[0] in ("timm", "torchvision"):
            return kind.__name__
    return None


@dataclass
class _Output:
    """What happened to the output of one call of a convolution."""

    conv: str
    tensor: weakref.ref[Tensor]
    readers: set[str] = field(default_factory=set)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records, while a network runs in it, which modules read the outputs of its convolutions.

    Args:
        convolutions, norms: Modules by name.
    """

    def __init__(self, convolutions: Mapping[str, nn.Module], norms: Mapping[str, nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._convolutions = convolutions
        self._norms = norms
        self._outputs: dict[int, _Output] = {}
        self._inside: list[str] = []
        self.calls: dict[str, int] = {}
        self.outputs: dict[str, _Output] = {}
        self.sources: dict[str, str] = {}
        """The convolution whose output a norm got, by the norm's name."""

    @contextmanager
    def hooked(self) -> Iterator["Watch"]:
        """Hooks on the modules, and this mode, for the block."""
        handles = []
        for name, module in self._convolutions.items():
            handles.append(module.register_forward_hook(self._leaves(name)))
        for name, module in self._norms.items():
            handles.append(module.register_forward_pre_hook(self._enters(name)))
            handles.append(module.register_forward_hook(self._exits()))
        try:
            with self, torch.no_grad():
                yield self
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs or {})):
            known = self._known(leaf)
            if known is not None:
                known.readers.add(self._inside[-1] if self._inside else "")
        return func(*args, **(kwargs or {}))

    def _known(self, value: object) -> _Output | None:
        found = self._outputs.get(id(value))
        return found if found is not None and found.tensor() is value else None

    def _leaves(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self.calls[name] = self.calls.get(name, 0) + 1
            if isinstance(output, Tensor):
                self.outputs[name] = self._outputs[id(output)] = _Output(name, weakref.ref(output))

        return hook

    def _enters(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            self.calls[name] = self.calls.get(name, 0) + 1
            self._inside.append(name)
            known = self._known(args[0]) if len(args) == 1 else None
            if known is not None:
                self.sources[name] = known.conv

        return hook

    def _exits(self) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self._inside.pop()

        return hook

    def refusal(self, norm: str) -> str | None:
        """Why the norm is not proven to be the only reader of one convolution; None when it is.

        To be asked while what the network returned is still held, so that an output that is returned counts as read.
        """
        if norm not in self.calls:
            return "it did not run"
        conv = self.sources.get(norm)
        if conv is None:
            return "it does not read a convolution's output"
        for name in (norm, conv):
            if self.calls[name] > 1:
                return f"{name!r} runs {self.calls[name]} times in a pass"
        output = self.outputs[conv]
        if output.readers != {norm}:
            return f"something else reads the output of {conv!r} too"
        if output.tensor() is not None:
            gc.collect()
            if output.tensor() is not None:
                return f"the output of {conv!r} is kept or returned"
        return None


def foldable_convolution(conv: nn.Module) -> str | None:
    """Why a convolution cannot take in a norm, whatever reads it; None when it can."""
    reason = static_refusal(conv) if isinstance(conv, nn.Conv2d) else replaced_method(conv) or weight_refusal(conv)
    return reason or ("it has hooks" if has_hooks(conv) else None)


def foldable_norm(norm: nn.Module) -> str | None:
    """Why a norm cannot be taken in by what it reads; None when it can."""
    if after_norm(norm) is None:
        return f"its class {type(norm).__name__} computes something else than BatchNorm2d"
    if norm.running_mean is None or (isinstance(norm, _BatchNorm) and norm.training):
        return "it uses the statistics of the batch"
    return "it has hooks" if has_hooks(norm) or parametrize.is_parametrized(norm) else None


def has_hooks(module: nn.Module) -> bool:
    """Whether something else looks at, or changes, what goes in or comes out."""
    return bool(module._forward_hooks or module._forward_pre_hooks or replaced_method(module))
