"""Libraries that let other runtimes run native programs: the same kernels, without torch."""

import functools
import importlib.util
from importlib import metadata
from pathlib import Path
from typing import Literal

from dynaconv.native.compilation import BuildError, Host, build

Runtime = Literal["onnxruntime", "openvino"]
DOMAIN, OPERATOR = "dynaconv", "NativeProgram"
"""Of the operator in files; it takes images ``(B, C, H, W)`` and constants, and gives images ``(B, H', W', C')``."""


@functools.cache
def extension(runtime: Runtime, *, verbose: bool = False) -> Path:
    """The library that a runtime needs to run a file exported with ``native=True``.

    It is compiled here the first time, which takes some ten seconds, and may then be copied to where the file is used:
    a machine with the same kind of processor and, for OpenVINO, the same version of it. Torch and dynaconv are not
    needed there.

    Args:
        runtime: ``onnxruntime`` for ``SessionOptions.register_custom_ops_library``, ONNX Runtime 1.17 or newer;
            ``openvino`` for ``Core.add_extension``.
        verbose: Print the compiler's commands.

    Raises:
        BuildError: It cannot be compiled, OpenVINO is not installed, or there is no such runtime.
    """
    if runtime == "onnxruntime":
        # Its interface is stated in csrc/onnxruntime_abi.h and never changes.
        return build(Host(name="onnxruntime", version="", compiled=(), linked=()), verbose=verbose)
    if runtime == "openvino":
        return build(_openvino(), verbose=verbose)
    raise BuildError(f"there are extensions for 'onnxruntime' and 'openvino'; got {runtime!r}.")


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
