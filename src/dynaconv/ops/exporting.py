"""Whether the code runs to be recorded into a graph whose batch should stay free."""

import torch


def is_exporting() -> bool:
    """True under `torch.export`, `torch.onnx.export` (either exporter) and `torch.jit.trace`."""
    return bool(torch.compiler.is_exporting() or torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]
