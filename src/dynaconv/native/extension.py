"""Libraries that let other runtimes run native programs: the same kernels, without torch."""

import ctypes
import importlib.util
from importlib import metadata
from pathlib import Path
from typing import Literal

from dynaconv.native.toolchain import BuildError, Host, build, onnxruntime_host, shipped

Runtime = Literal["onnxruntime", "openvino"]
DOMAIN, OPERATOR = "dynaconv", "NativeProgram"
"""Of the operator in files; it takes images ``(B, C, H, W)`` and constants, and gives images ``(B, H', W', C')``."""


def extension(runtime: Runtime, *, verbose: bool = False) -> Path:
    """The library that a runtime needs to run a file exported with ``native=True``.

    The package carries the one for ONNX Runtime, or it is compiled here the first time, as that for OpenVINO is; that
    takes some ten seconds. It may be copied to where the file is used: a machine with the same kind of processor and,
    for OpenVINO, the same version of it. Torch and dynaconv are not needed there.

    Args:
        runtime: ``onnxruntime`` for ``SessionOptions.register_custom_ops_library``, ONNX Runtime 1.17 or newer;
            ``openvino`` for ``Core.add_extension``.
        verbose: Print the compiler's commands.

    Raises:
        BuildError: It cannot be compiled, OpenVINO is not installed, or there is no such runtime.
    """
    if runtime == "onnxruntime":
        library = shipped(runtime)
        return library if library and _loads(library) else build(onnxruntime_host(), verbose=verbose)
    if runtime == "openvino":
        return build(_openvino(), verbose=verbose)
    raise BuildError(f"there are extensions for 'onnxruntime' and 'openvino'; got {runtime!r}.")


def _loads(library: Path) -> bool:
    """Whether it is for a system like this one."""
    try:
        ctypes.CDLL(str(library))
    except OSError:
        return False
    return True


def _openvino() -> Host:
    found = importlib.util.find_spec("openvino")
    if found is None or found.origin is None:
        raise BuildError('an extension of OpenVINO needs OpenVINO; install it with: pip install "dynaconv[export]"')
    folder = Path(found.origin).parent
    libraries = [library.name for name in ("openvino", "tbb") for library in (folder / "libs").glob(f"lib{name}.so*")]
    return Host(
        name="openvino",
        version=metadata.version("openvino"),
        compiled=(f"-isystem{folder / 'include'}",),
        linked=(f"-L{folder / 'libs'}", *(f"-l:{name}" for name in libraries)),
    )
