"""Runs OpenVINO files. It imports only numpy and OpenVINO, so that a child process for it starts in half a second."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def load(file: Path, library: Path | None, precision: str | None) -> Callable[..., list[Any]]:
    """Load a file for the CPU, with an extension library if it needs one, in the precision or the default one.

    Returns:
        A function that takes the input arrays and returns the output arrays.
    """
    openvino = import_module("openvino")
    core = openvino.Core()
    if library is not None:
        core.add_extension(library)
    compiled = core.compile_model(file, "CPU", {} if precision is None else {"INFERENCE_PRECISION_HINT": precision})

    def run(*inputs: Any) -> list[Any]:
        results = compiled(list(inputs))
        return [results[output] for output in compiled.outputs]

    return run
