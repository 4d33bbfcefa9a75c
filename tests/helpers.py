"""What tests share: the tolerance table, seeded tensors, random DCD problems."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynaconv.families import families
from dynaconv.models import STATIC

LAYERS = {family.name: family.layer for family in families()}
"""Each family's convolution."""
FAMILIES = (*LAYERS, STATIC)
"""Families of the registered networks."""
TOLERANCE: dict[str, dict[str, float]] = {
    # A fast algorithm against its reference, same arithmetic in another order.
    "float64": {"rtol": 1e-10, "atol": 1e-10},
    "float32": {"rtol": 1e-4, "atol": 1e-5},
    # Another library's layer with the same weights, in float32.
    "float32 twin": {"rtol": 1e-5, "atol": 1e-5},
    # bfloat16 keeps 8 bits, float16 11; sums over up to 100 terms.
    "bfloat16": {"rtol": 5e-2, "atol": 5e-2},
    "float16": {"rtol": 1e-2, "atol": 1e-2},
    # Stored float32 outputs of the published layers.
    "golden": {"rtol": 1e-4, "atol": 1e-5},
    # The published classifier normalises over three values. Two of its stored float32 gradients, of magnitudes up to 46
    # and 23, are themselves up to 1.2e-4 away from the gradient in float64.
    "golden ill-conditioned": {"rtol": 1e-4, "atol": 2e-4},
}


def seeded_tensors(
    shapes: Sequence[tuple[int, ...]], *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Leaf tensors of N(0, 1) that require gradients."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def value_and_gradients(output: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """``output`` and the gradients of a fixed random weighting of it; zeros for an input it does not depend on."""
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)
    return (output, *torch.autograd.grad(output, inputs, upstream, materialize_grads=True))


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
