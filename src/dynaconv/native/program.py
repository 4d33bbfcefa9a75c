"""A module that runs a native program in place of the modules that it was lowered from."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from dynaconv.conversion.proxy import ModuleProxy
from dynaconv.deployment.backends import Precision
from dynaconv.native import library
from dynaconv.native.bf16 import round_kernels
from dynaconv.native.program_builder import Builder
from dynaconv.native.steps import UnsupportedError

_OPERATORS: Any = torch.ops.dynaconv


class NativeProgram(ModuleProxy):
    """Computes the same function as ``original`` with the compiled kernels.

    The kernels take float32 images on the CPU in any memory format and return channels_last images. In all other cases
    (another dtype or device, train mode, autocast, a gradient is needed, no compiled library) ``original`` runs. The
    packed constants are not in the state dict. They are packed again when a state dict is loaded, when the dtype or
    device changes, and when train mode ends. With the precision bf16, packing also rounds the kernels of ``original``,
    so that both compute the same function.

    Args:
        original: The replaced module; it keeps its parameters.
        lower: Function that lowers ``original`` to steps.
        precision: See `dynaconv.deploy`.
    """

    constants: Tensor | None
    steps: Tensor | None

    def __init__(
        self, original: nn.Module, lower: Callable[[nn.Module], Builder], precision: Precision = "float32"
    ) -> None:
        super().__init__()
        self.register_buffer("constants", None, persistent=False)
        self.register_buffer("steps", None, persistent=False)
        self.original = original
        self.training = original.training
        self.precision: Precision = precision
        self._lower = lower
        self.pack()
        untyped: Any = super()
        untyped.register_load_state_dict_post_hook(_repack)
        self._ready = library.ready()

    def pack(self) -> None:
        """Pack the weights of ``original`` again; needed after a change of the weights in place.

        If the weights are not float32 on the CPU, nothing is packed and ``original`` runs.
        """
        # Walking through the modules of `original` at each call would take longer than a small network itself.
        self._original_parameters = tuple(self.original.parameters())
        if self.precision == "bf16":
            round_kernels(self.original)
        try:
            builder = self._lower(self.original)
        except UnsupportedError:
            self.constants = self.steps = None
            return
        self.constants, self.steps, self.sizes = builder.build(self.precision)
        library.use_huge_pages(self.constants)
        self.flat = builder.flat
        self._in_channels, self._out_channels = builder.steps[0].in_channels, builder.steps[-1].out_channels

    def _replaced(self) -> nn.Module | None:
        modules: dict[str, nn.Module] = self.__dict__.get("_modules", {})
        return modules.get("original")

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled module; the library may not be available in this process."""
        untyped: Any = super()
        untyped.__setstate__(state)
        self._ready = library.ready()
        if self.constants is not None:
            library.use_huge_pages(self.constants)

    def train(self, mode: bool = True) -> "NativeProgram":
        """Set train or eval mode; packs the weights again when train mode ends, since training changes them."""
        leaves_training = self.training and not mode
        super().train(mode)
        if leaves_training:
            self.pack()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "NativeProgram":
        """Apply ``to``, ``half``, ``to_empty`` and others to every tensor, then pack the new weights."""
        untyped: Any = super()
        untyped._apply(fn, recurse)
        self.pack()
        return self

    def _supports(self, x: Tensor) -> bool:
        # Few and cheap checks: in small networks Python's overhead is a large part of a call.
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
            # In forward-mode differentiation the level is >= 0; the kernels would return a zero derivative.
            and forward_ad._current_level < 0
        )

    def _needs_gradient(self, x: Tensor) -> bool:
        return x.requires_grad or any(parameter.requires_grad for parameter in self._original_parameters)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C_in, H, W)`` to ``(B, C_out, H_out, W_out)``, or to ``(B, C_out)`` if ``flat``."""
        # Direct access to the buffers avoids the slow attribute lookup of modules.
        constants, steps = self._buffers["constants"], self._buffers["steps"]
        if constants is None or not self._supports(x):
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
        size = f"{self._in_channels}, {self._out_channels}, constants={self.constants.numel()}"
        return size if self.precision == "float32" else f"{size}, precision={self.precision}"


def _repack(module: nn.Module, incompatible_keys: Any) -> None:
    assert isinstance(module, NativeProgram)
    module.pack()
