"""What tests share: the tolerance table, seeded tensors, random DCD problems."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dynaconv.export.onnx import load_onnx
from dynaconv.families import families
from dynaconv.models import STATIC
from dynaconv.testing import TOLERANCE, assert_close_to_scale
from dynaconv.testing.contract import value_and_gradients

LAYERS = {family.name: family.layer for family in families()}
"""Each family's convolution."""
__all__ = ["FAMILIES", "LAYERS", "TOLERANCE", "assert_file_computes", "count", "seeded_tensors", "value_and_gradients"]
FAMILIES = (*LAYERS, STATIC)
"""Families of the registered networks."""


def seeded_tensors(
    shapes: Sequence[tuple[int, ...]], *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Leaf tensors of N(0, 1) that require gradients."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def assert_file_computes(file: Path, network: nn.Module, *shapes: tuple[int, ...]) -> None:
    """An ONNX file with a free batch gives the network's output for inputs of these shapes, in ONNX Runtime."""
    run = load_onnx(file)
    for batch in (1, 2, 7):
        inputs = [torch.randn(batch, *shape) for shape in shapes]
        with torch.no_grad():
            want = network(*inputs)
        (got,) = run(*inputs)
        assert_close_to_scale(torch.from_numpy(got), want, "float32")


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
