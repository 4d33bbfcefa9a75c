"""Finds the batch norms that are the only readers of a convolution, by recording all readers in a forward pass."""

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
from torch.utils.hooks import RemovableHandle

from dynaconv.conversion.example import temporary_hooks
from dynaconv.families.contract.static import replaced_method, static_class, static_refusal, weight_refusal

_PLAIN_NORMS = (nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward)
_NORMS_WITH_ACTIVATION = ("BatchNormAct2d", "SyncBatchNormAct", "FrozenBatchNormAct2d")
_FROZEN_NORM = "FrozenBatchNorm2d"


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm: torch's, timm's with an activation, or torchvision's frozen one."""
    foreign = _class_in(module, (_FROZEN_NORM, *_NORMS_WITH_ACTIVATION))
    return foreign is not None or isinstance(
        module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
    )


def fill_zero_norms(model: nn.Module, value: float = 1.0) -> None:
    """Set the scale of each batch norm whose scale is zero, as that of the last one of a residual block is at first.

    SE, which reads a layer's output, is deployed with such a norm in another form than after training.
    """
    for norm in filter(is_norm, model.modules()):
        weight: Any = norm.weight
        if weight is not None and not weight.any():
            nn.init.constant_(weight, value)


def norm_remainder(norm: nn.Module) -> nn.Module | None:
    """Return the module that remains of a norm after its scale and shift are folded; None for an unknown class."""
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
    """Return the first class name of a module that is in ``names`` and from timm or torchvision; None if none is."""
    for kind in type(module).__mro__:
        if kind.__name__ in names and kind.__module__.split(".")[0] in ("timm", "torchvision"):
            return kind.__name__
    return None


@dataclass
class _Output:
    """The output of one call of a convolution, and the modules that read it; ``""`` is any module but a norm."""

    conv: str
    tensor: weakref.ref[Tensor]
    readers: set[str] = field(default_factory=set)


class ReaderRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Dispatch mode that records which modules read the outputs of a network's convolutions.

    Args:
        convolutions, norms: Modules by name.
    """

    def __init__(self, convolutions: Mapping[str, nn.Module], norms: Mapping[str, nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._convolutions = convolutions
        self._norms = norms
        self._outputs: dict[int, _Output] = {}
        self._norm_stack: list[str] = []
        self.calls: dict[str, int] = {}
        self.outputs: dict[str, _Output] = {}
        self.sources: dict[str, str] = {}
        """The convolution whose output each norm received, by the norm's name."""

    @contextmanager
    def hooked(self) -> Iterator["ReaderRecorder"]:
        """Register the hooks and enable this mode inside the block."""
        with temporary_hooks(self._register()), self, torch.no_grad():
            yield self

    def _register(self) -> Iterator[RemovableHandle]:
        for name, module in self._convolutions.items():
            yield module.register_forward_hook(self._convolution_hook(name))
        for name, module in self._norms.items():
            yield module.register_forward_pre_hook(self._norm_pre_hook(name))
            yield module.register_forward_hook(self._norm_hook())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs or {})):
            record = self._find_output(leaf)
            if record is not None:
                record.readers.add(self._norm_stack[-1] if self._norm_stack else "")
        return func(*args, **(kwargs or {}))

    def _find_output(self, value: object) -> _Output | None:
        record = self._outputs.get(id(value))
        return record if record is not None and record.tensor() is value else None

    def _convolution_hook(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self.calls[name] = self.calls.get(name, 0) + 1
            if isinstance(output, Tensor):
                self.outputs[name] = self._outputs[id(output)] = _Output(name, weakref.ref(output))

        return hook

    def _norm_pre_hook(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            self.calls[name] = self.calls.get(name, 0) + 1
            self._norm_stack.append(name)
            record = self._find_output(args[0]) if len(args) == 1 else None
            if record is not None:
                self.sources[name] = record.conv

        return hook

    def _norm_hook(self) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self._norm_stack.pop()

        return hook

    def refusal(self, norm: str) -> str | None:
        """Return why the norm is not proven to be the only reader of one convolution; None if it is proven.

        The caller must still hold the outputs of the network, so that a returned feature map counts as read.
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


def convolution_refusal(conv: nn.Module) -> str | None:
    """Return why no norm can be folded into a convolution; None if one can."""
    reason = static_refusal(conv) if static_class(conv) else replaced_method(conv) or weight_refusal(conv)
    return reason or ("it has hooks" if has_hooks(conv) else None)


def norm_refusal(norm: nn.Module) -> str | None:
    """Return why a norm cannot be folded into any convolution; None if it can."""
    if norm_remainder(norm) is None:
        return f"its class {type(norm).__name__} computes something else than a batch norm of torch"
    if norm.running_mean is None or (isinstance(norm, _BatchNorm) and norm.training):
        return "it uses the statistics of the batch"
    return "it has hooks" if has_hooks(norm) or parametrize.is_parametrized(norm) else None


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has forward hooks or a replaced method, which may read or change its input or output."""
    return bool(module._forward_hooks or module._forward_pre_hooks or replaced_method(module))
