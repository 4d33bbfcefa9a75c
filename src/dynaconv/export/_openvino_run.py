"""Runs OpenVINO's files. It imports numpy and OpenVINO alone, so that a process for it starts in half a second."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def load(file: Path, library: Path | None) -> Callable[..., list[Any]]:
    """Open a file on the CPU, computing in float32, with an extension where it needs one: arrays to arrays."""
    openvino = import_module("openvino")
    core = openvino.Core()
    if library is not None:
        core.add_extension(library)
    compiled = core.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(*inputs: Any) -> list[Any]:
        results = compiled(list(inputs))
        return [results[output] for output in compiled.outputs]

    return run
