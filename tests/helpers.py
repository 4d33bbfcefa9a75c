"""What tests share: the tolerance table, seeded tensors, random DCD problems."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynaconv.families import families
from dynaconv.models import STATIC
from dynaconv.testing import TOLERANCE
from dynaconv.testing.contract import value_and_gradients

LAYERS = {family.name: family.layer for family in families()}
"""Each family's convolution."""
__all__ = ["FAMILIES", "LAYERS", "TOLERANCE", "count", "seeded_tensors", "value_and_gradients"]
FAMILIES = (*LAYERS, STATIC)
"""Families of the registered networks."""


def seeded_tensors(
    shapes: Sequence[tuple[int, ...]], *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Leaf tensors of N(0, 1) that require gradients."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
