"""Loads the compiled library once; it registers the operator that runs native programs."""

import ctypes
import functools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynaconv.errors import DynaconvError, received
from dynaconv.native.steps import FIELDS
from dynaconv.native.toolchain import BuildError, build, check_platform, prebuilt_library
from dynaconv.ops.eager import enable_compiled

# Most of torch.library has no type annotations.
_library: Any = torch.library
_DEFINITIONS = _library.Library("dynaconv", "DEF")
_DEFINITIONS.define(
    "native_program(Tensor x, Tensor constants, Tensor steps, int out_channels, int[] sizes) -> Tensor",
    tags=(torch.Tag.needs_fixed_stride_order,),
)
# `coefficients` are attention, channel, spatial and filter, where an empty tensor stands for none; `sizes` those of the
# kernel, then stride, padding and dilation, height before width.
_DEFINITIONS.define(
    "mixture_conv(Tensor x, Tensor kernels, Tensor[] coefficients, Tensor(a!) out, int[] sizes) -> Tensor(a!)"
)
_DEFINITIONS.define(
    "mixture_conv_gradients(Tensor x, Tensor kernels, Tensor transposed, Tensor[] coefficients, Tensor gradient, "
    "Tensor(a!) to_x, Tensor(b!) to_kernels, Tensor(c!)[] to_coefficients, int[] sizes) -> ()"
)
_DEFINITIONS.define("mixture_patches(Tensor x, Tensor[] coefficients, int[] sizes) -> Tensor")
_DEFINITIONS.define(
    "mixture_patches_gradients(Tensor x, Tensor[] coefficients, Tensor gradient, Tensor(a!) to_x, "
    "Tensor(b!)[] to_coefficients, int[] sizes) -> ()"
)
_DEFINITIONS.define("kernel_mix(Tensor kernels, Tensor[] coefficients, Tensor(a!) out) -> Tensor(a!)")
_DEFINITIONS.define(
    "kernel_mix_gradients(Tensor kernels, Tensor[] coefficients, Tensor gradient, Tensor(a!)[] out) -> ()"
)

_DEFINITIONS.define("average(Tensor x, Tensor(a!) out) -> Tensor(a!)")
_DEFINITIONS.define("average_gradient(Tensor to_average, Tensor(a!) to_x) -> ()")
# The arguments of a DCD layer, and what the operators return: `csrc/binding_dcd.h`.
_LAYER = "Tensor x, Tensor? context, Tensor[] parameters"
_SETTINGS = "float[] settings, int[] sizes"
_DEFINITIONS.define(f"dcd_layer({_LAYER}, Tensor(a!)[] running, {_SETTINGS}) -> (Tensor, Tensor)")
_DEFINITIONS.define(
    f"dcd_layer_gradients({_LAYER}, {_SETTINGS}, Tensor memory, Tensor? out, Tensor gradient, bool for_x) -> Tensor[]"
)


class NativeError(DynaconvError):
    """The native backend cannot run with the given settings."""


def _fake_output(x: Tensor, constants: Tensor, steps: Tensor, out_channels: int, sizes: Sequence[int]) -> Tensor:
    height, width = x.shape[2], x.shape[3]
    for index in range(0, len(sizes), 4):
        height = _output_size(height, sizes[index], sizes[index + 1])
        width = _output_size(width, sizes[index + 2], sizes[index + 3])
    return torch.empty(
        (x.shape[0], out_channels, height, width), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )


def _output_size(size: int, offset: int, stride: int) -> int:
    return (size + offset) // stride + 1 if stride else 1


_library.register_fake("dynaconv::native_program", _fake_output, lib=_DEFINITIONS)


def _open_any() -> tuple[Path, ctypes.CDLL]:
    """Open the package's prebuilt library or, if there is none that loads, one compiled here."""
    check_platform()
    path = prebuilt_library("torch")
    if path is not None:
        try:
            return path, _open(path)
        except OSError:
            # Built for another system, such as a newer one.
            pass
    path = build()
    return path, _open(path)


def _open(path: Path) -> ctypes.CDLL:
    """Load a library; loading it registers the operator."""
    operators: Any = torch.ops
    operators.load_library(path)
    return ctypes.CDLL(str(path))


@functools.cache
def _load() -> tuple[ctypes.CDLL, str]:
    """Load the library, which is compiled first if needed; return it and the name of its instruction set."""
    path, library = _open_any()
    if library.dynaconv_native_fields() != len(FIELDS):
        raise NativeError(f"{path} was built from other sources; delete it and build it again.")
    library.dynaconv_native_isa.restype = ctypes.c_char_p
    message = ctypes.create_string_buffer(512)
    name = library.dynaconv_native_isa(message, ctypes.c_size_t(len(message)))
    if name is None:
        raise NativeError(message.value.decode())
    return library, str(name.decode())


def instruction_set() -> str:
    """Return the instruction set that the kernels use: ``avx512``, ``avx2`` or ``portable``.

    It is the best one that this processor supports, or the one that the environment variable DYNACONV_ISA names.

    Raises:
        BuildError: The kernels cannot be compiled here.
        NativeError: DYNACONV_ISA names an unknown or unsupported instruction set.
    """
    return _load()[1]


def int8_instruction_set() -> str:
    """Return the instruction set of products in int8: ``avx512_vnni``, ``avx_vnni`` or ``portable``, which is slow.

    Raises:
        BuildError: The kernels cannot be compiled here.
        NativeError: DYNACONV_ISA names an unknown or unsupported instruction set.
    """
    library, _ = _load()
    library.dynaconv_native_int8_isa.restype = ctypes.c_char_p
    return str(library.dynaconv_native_int8_isa().decode())


@functools.cache
def int8_is_fast() -> bool:
    """Return whether int8 is faster than float32 here; if not, warn once. The library must be `ready`."""
    if int8_instruction_set() == "portable":
        message = (
            f"this processor, or the instruction set {instruction_set()!r}, has no VNNI instructions; networks "
            f"deployed with precision='int8' compute in float32 instead."
        )
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return False
    return True


@functools.cache
def _reason() -> str | None:
    """Return why the library cannot be loaded here; None if it is loaded."""
    try:
        _load()
    except (BuildError, OSError) as error:
        return str(error).rstrip(".")
    return None


@functools.cache
def ready() -> bool:
    """Return whether native programs can run here; if not, warn once with the reason.

    Raises:
        NativeError: DYNACONV_ISA names an unknown or unsupported instruction set.
    """
    reason = _reason()
    if reason is not None:
        message = f"{reason}; networks deployed with backend='native' run in torch instead."
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return reason is None


def use_huge_pages(constants: Tensor) -> None:
    """Ask the system to put constants on huge pages; their values stay.

    A call reads tens of megabytes of weights once; with small pages every 4 KiB costs a TLB miss.
    """
    if ready():
        library, _ = _load()
        library.dynaconv_native_settle(
            ctypes.c_void_p(constants.data_ptr()), ctypes.c_size_t(constants.numel() * constants.element_size())
        )


def accelerate_training(enabled: bool = True) -> bool:
    """Let dynamic layers train by compiled operators where there are some; off by default.

    They serve eager float32 training on the CPU, of dense 2-D convolutions with ``algorithm="auto"``: CondConv, DY-Conv
    and ODConv, and DCD with its default branch in channels_last format, with a multiple of 8 channels. All else, and
    second derivatives, run as before. Results differ by rounding. The first call may compile the operators, which takes
    about a minute.

    Args:
        enabled: False switches the operators off.

    Returns:
        Whether they are on. If they cannot be compiled here, a warning says why.

    Raises:
        TypeError: ``enabled`` is not a bool.
        NativeError: DYNACONV_ISA names an unknown or unsupported instruction set.
    """
    if not isinstance(enabled, bool):
        raise TypeError(f"accelerate_training takes True or False; got {received(enabled)}.")
    reason = _reason() if enabled else None
    if reason is not None:
        warnings.warn(f"{reason}; layers train in torch instead.", RuntimeWarning, stacklevel=2)
    enable_compiled(enabled and reason is None)
    return enabled and reason is None
