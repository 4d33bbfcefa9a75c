"""The compiled library: loaded once, with the operator that runs native programs."""

import ctypes
import functools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynaconv.errors import DynaconvError
from dynaconv.native.steps import FIELDS
from dynaconv.native.toolchain import BuildError, build, check_platform, shipped

# torch annotates little of its library interface.
_library: Any = torch.library
_DEFINITIONS = _library.Library("dynaconv", "DEF")
_DEFINITIONS.define(
    "native_program(Tensor x, Tensor constants, Tensor steps, int out_channels, int[] sizes) -> Tensor",
    tags=(torch.Tag.needs_fixed_stride_order,),
)


class NativeError(DynaconvError):
    """The native backend cannot run as it was asked to."""


def _shape(x: Tensor, constants: Tensor, steps: Tensor, out_channels: int, sizes: Sequence[int]) -> Tensor:
    height, width = x.shape[2], x.shape[3]
    for index in range(0, len(sizes), 4):
        height = _resized(height, sizes[index], sizes[index + 1])
        width = _resized(width, sizes[index + 2], sizes[index + 3])
    return torch.empty(
        (x.shape[0], out_channels, height, width), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )


def _resized(size: int, offset: int, stride: int) -> int:
    return (size + offset) // stride + 1 if stride else 1


_library.register_fake("dynaconv::native_program", _shape, lib=_DEFINITIONS)


def _opened() -> tuple[Path, ctypes.CDLL]:
    """The library of the package, or one compiled here where there is none that loads."""
    check_platform()
    path = shipped("torch")
    if path is not None:
        try:
            return path, _open(path)
        except OSError:
            # Made for an older system than this one, or for a newer one.
            pass
    path = build()
    return path, _open(path)


def _open(path: Path) -> ctypes.CDLL:
    """Load a library, which registers the operator."""
    operators: Any = torch.ops
    operators.load_library(path)
    return ctypes.CDLL(str(path))


@functools.cache
def _load() -> tuple[ctypes.CDLL, str]:
    """Load the library, compiled first where need be, and the name of the instruction set it runs with."""
    path, library = _opened()
    if library.dynaconv_native_fields() != len(FIELDS):
        raise NativeError(f"{path} was made from other sources than these; delete it and build it again.")
    library.dynaconv_native_isa.restype = ctypes.c_char_p
    message = ctypes.create_string_buffer(512)
    name = library.dynaconv_native_isa(message, ctypes.c_size_t(len(message)))
    if name is None:
        raise NativeError(message.value.decode())
    return library, str(name.decode())


def instruction_set() -> str:
    """The instruction set that the kernels use here: ``avx512``, ``avx2`` or ``portable``.

    The best one of this processor, or what the environment variable DYNACONV_ISA says.

    Raises:
        BuildError: The kernels cannot be compiled here.
        NativeError: DYNACONV_ISA names a set that there is not.
    """
    return _load()[1]


@functools.cache
def ready() -> bool:
    """Whether native programs run here; says once why not, where not.

    Raises:
        NativeError: DYNACONV_ISA names a set that there is not.
    """
    try:
        _load()
    except (BuildError, OSError) as error:
        reason = str(error).rstrip(".")
        warnings.warn(f"{reason}; networks deployed for it run in torch instead.", RuntimeWarning, stacklevel=2)
        return False
    return True


def settle(constants: Tensor) -> None:
    """Let constants lie in large pages of memory where the system has them; their values stay.

    Reading tens of megabytes of weights once a call, the processor would else look for every few kilobytes in the
    page table.
    """
    if ready():
        library, _ = _load()
        library.dynaconv_native_settle(
            ctypes.c_void_p(constants.data_ptr()), ctypes.c_size_t(constants.numel() * constants.element_size())
        )
