"""A module that runs a native program in place of the modules it was made from."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from dynaconv.conversion.stand_in import StandIn
from dynaconv.native import library
from dynaconv.native.program_builder import Builder
from dynaconv.native.steps import UnsupportedError

_OPERATORS: Any = torch.ops.dynaconv


class NativeProgram(StandIn):
    """Computes what ``original`` computes, by the compiled kernels where they can.

    They take float32 images on the CPU, in any memory format, and give channels_last ones. For everything else
    (another type or device, autocast, a gradient that is wanted, no compiled library) the original runs. The packed
    constants are no part of the state dict; loading one packs them anew, and so do a change of type or device and the
    end of training.

    Args:
        original: What is replaced; its parameters stay its own.
        lower: Makes the steps from ``original``.
    """

    constants: Tensor | None
    steps: Tensor | None

    def __init__(self, original: nn.Module, lower: Callable[[nn.Module], Builder]) -> None:
        super().__init__()
        self.register_buffer("constants", None, persistent=False)
        self.register_buffer("steps", None, persistent=False)
        self.original = original
        self.training = original.training
        self._lower = lower
        self.pack()
        untyped: Any = super()
        untyped.register_load_state_dict_post_hook(_pack_again)
        self._ready = library.ready()

    def pack(self) -> None:
        """Take the weights over from the original once more; needed after they were changed in place.

        Where they are not float32 on the CPU there is nothing to take, and the original runs.
        """
        # A walk through the original at each call would take longer than a small network does.
        self._watched = tuple(self.original.parameters())
        try:
            builder = self._lower(self.original)
        except UnsupportedError:
            self.constants = self.steps = None
            return
        self.constants, self.steps, self.sizes = builder.build()
        library.settle(self.constants)
        self.flat = builder.flat
        self._in_channels, self._out_channels = builder.steps[0].in_channels, builder.steps[-1].out_channels

    def _replaced(self) -> nn.Module | None:
        modules: dict[str, nn.Module] = self.__dict__.get("_modules", {})
        return modules.get("original")

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled module; the library may be missing where it is restored."""
        untyped: Any = super()
        untyped.__setstate__(state)
        self._ready = library.ready()
        if self.constants is not None:
            library.settle(self.constants)

    def train(self, mode: bool = True) -> "NativeProgram":
        """As any module; the weights may be others when training ends."""
        ends = self.training and not mode
        super().train(mode)
        if ends:
            self.pack()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "NativeProgram":
        """What ``to``, ``half``, ``to_empty`` and others do to every tensor; constants follow from the weights."""
        untyped: Any = super()
        untyped._apply(fn, recurse)
        self.pack()
        return self

    def _takes(self, x: Tensor) -> bool:
        # Between two calls of the kernels Python's own steps are slow, so these are few.
        return (
            self._ready
            and x.dtype is torch.float32
            and x.is_cpu
            and x.layout is torch.strided
            and not self.training
            and x.dim() == 4
            and x.shape[1] == self._in_channels
            and not torch.is_autocast_enabled("cpu")
            and not (torch.is_grad_enabled() and self._needs_gradient(x))
            # Forward-mode derivatives, which would come out as zero, are taken inside a level.
            and forward_ad._current_level < 0
        )

    def _needs_gradient(self, x: Tensor) -> bool:
        return x.requires_grad or any(parameter.requires_grad for parameter in self._watched)

    def forward(self, x: Tensor) -> Tensor:
        """As the original, ``(B, C_in, H, W)`` to ``(B, C_out, H_out, W_out)``."""
        # Not as attributes: those of a module are looked for in several places.
        constants, steps = self._buffers["constants"], self._buffers["steps"]
        if constants is None or not self._takes(x):
            out: Tensor = self.original(x)
        else:
            out = _OPERATORS.native_program(x, constants, steps, self._out_channels, self.sizes)
            if self.flat:
                out = out.flatten(1)
        return out

    def extra_repr(self) -> str:
        """The size of the program."""
        if self.constants is None:
            return "in torch"
        return f"{self._in_channels}, {self._out_channels}, constants={self.constants.numel()}"


def _pack_again(module: nn.Module, incompatible_keys: Any) -> None:
    assert isinstance(module, NativeProgram)
    module.pack()
