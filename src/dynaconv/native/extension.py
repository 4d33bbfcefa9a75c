"""Extension libraries with which other runtimes run native programs: the same kernels, without torch."""

import ctypes
import importlib.util
from importlib import metadata
from pathlib import Path
from typing import Literal, get_args

from dynaconv.families.contract.checks import check_choice
from dynaconv.native.toolchain import BuildError, Host, build, onnxruntime_host, prebuilt_library

Runtime = Literal["onnxruntime", "openvino"]
DOMAIN, OPERATOR = "dynaconv", "NativeProgram"
"""Domain and name of the operator in files. It maps images ``(B, C, H, W)`` and constants to ``(B, H', W', C')``."""


def extension(runtime: Runtime, *, verbose: bool = False) -> Path:
    """Return the library that a runtime needs to run a file exported with ``native=True``.

    Wheels with native kernels contain the one for ONNX Runtime. Otherwise, and always for OpenVINO, the first call
    compiles it, which takes about ten seconds. The library can be copied to another machine with the same processor
    architecture and, for OpenVINO, the same OpenVINO version; torch and dynaconv are not needed there.

    Args:
        runtime: ``onnxruntime`` for ``SessionOptions.register_custom_ops_library``, ONNX Runtime 1.17 or newer;
            ``openvino`` for ``Core.add_extension``.
        verbose: Print the compiler's commands.

    Raises:
        BuildError: The library cannot be compiled, OpenVINO is not installed, or the runtime is unknown.
    """
    if runtime == "onnxruntime":
        library = prebuilt_library(runtime)
        return library if library and _is_loadable(library) else build(onnxruntime_host(), verbose=verbose)
    check_choice("`runtime`", runtime, get_args(Runtime), error=BuildError)
    return build(_openvino(), verbose=verbose)


def _is_loadable(library: Path) -> bool:
    """Return whether this system can load the library."""
    try:
        ctypes.CDLL(str(library))
    except OSError:
        return False
    return True


def _openvino() -> Host:
    spec = importlib.util.find_spec("openvino")
    if spec is None or spec.origin is None:
        raise BuildError('the extension for OpenVINO needs OpenVINO; install it with: pip install "dynaconv[export]"')
    folder = Path(spec.origin).parent
    libraries = [library.name for name in ("openvino", "tbb") for library in (folder / "libs").glob(f"lib{name}.so*")]
    return Host(
        name="openvino",
        version=metadata.version("openvino"),
        compiler_flags=(f"-isystem{folder / 'include'}",),
        linker_flags=(f"-L{folder / 'libs'}", *(f"-l:{name}" for name in libraries)),
    )
