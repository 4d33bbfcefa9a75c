"""Whether the code runs to be recorded into a graph whose batch should stay free."""

import torch

# `is_exporting` came with torch 2.7; before, compilation in general has to do.
_in_export = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def is_exporting() -> bool:
    """True under `torch.export`, `torch.onnx.export` (either exporter) and `torch.jit.trace`."""
    return bool(_in_export() or torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]
