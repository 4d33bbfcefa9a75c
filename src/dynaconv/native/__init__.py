"""Runs deployed networks by compiled kernels on the CPU; see docs/native.md."""

from dynaconv.native.deploy import deploy_native
from dynaconv.native.extension import extension
from dynaconv.native.library import NativeError, accelerate_training, instruction_set, ready
from dynaconv.native.program import NativeProgram
from dynaconv.native.toolchain import BuildError

__all__ = [
    "BuildError",
    "NativeError",
    "NativeProgram",
    "accelerate_training",
    "deploy_native",
    "extension",
    "instruction_set",
    "ready",
]
