"""Detection of export and tracing, during which the batch size must stay dynamic."""

import torch


def is_exporting() -> bool:
    """Whether the code runs under `torch.export`, `torch.onnx.export` (either exporter) or `torch.jit.trace`."""
    return bool(torch.compiler.is_exporting() or torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]
