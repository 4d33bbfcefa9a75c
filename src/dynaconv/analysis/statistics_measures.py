"""What is worth knowing about one sample's coefficients: entropies of attention, gates at their ends, sizes.

A measure takes one part of a batch's coefficients, (B, *shape), and gives a number or a vector for each sample, so that
its statistics over a data set are taken like those of the part itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dynaconv.analysis.coefficients import described
from dynaconv.families import families
from dynaconv.families.family import Role

END = 0.05
"""A gate within this share of its range of an end is at that end; one without upper end is near 0 below this."""


def role_of(part: str, layer: nn.Module, values: Tensor) -> Role:
    """How a part, (B, *shape), of a layer acts; of no family it is a gate, or from two axes on a matrix."""
    found = described(part, type(layer).__name__)
    return found.role if found is not None else "gate" if values.dim() == 2 else "matrix"


def gate_limit(layer: nn.Module, part: str) -> float | None:
    """Upper end of a gate's range, which starts at 0; None for a gate without one, or of an unknown layer."""
    for family in families():
        if isinstance(layer, family.layers) and part in family.coefficients:
            limit = family.coefficients[part].limit
            return limit(layer) if callable(limit) else limit
    return None


def measure(values: Tensor, role: Role, limit: float | None = None) -> dict[str, Tensor]:
    """The measures of a part's role for each sample.

    Args:
        values: One part of a batch's coefficients, (B, *shape).
        role: How the part acts.
        limit: Upper end of a gate's range, where it has one.

    Returns:
        - mixing: `share` (B, K), weights divided by their sum; `entropy` (B,), that of the shares over log K; `total`
          (B,), the sum of the weights; `largest` (B, K), 1 for the kernel with the most weight; `binary_entropy` (B,),
          of each weight read as the probability of yes, in bits, averaged over the kernels, where all lie in 0 to 1.
        - gate: `near_zero` (B,), the share of elements at the lower end; `saturated` (B,), at the upper end if any.
        - matrix: `norm` (B,), Frobenius.
    """
    if role == "mixing":
        return _measure_mixing(values.double())
    flat = values.double().flatten(1)
    if role == "matrix":
        return {"norm": flat.norm(dim=1)}
    near = END * (limit or 1.0)
    found = {"near_zero": (flat.abs() < near).double().mean(1)}
    if limit is not None:
        found["saturated"] = (flat > limit - near).double().mean(1)
    return found


def _measure_mixing(weights: Tensor) -> dict[str, Tensor]:
    total = weights.sum(1)
    shares = weights / total.clamp(min=torch.finfo(weights.dtype).tiny)[:, None]
    found = {
        "share": shares,
        "entropy": normalised_entropy(shares),
        "total": total,
        "largest": torch.nn.functional.one_hot(weights.argmax(1), weights.shape[1]).double(),
    }
    if bool(((weights >= 0) & (weights <= 1)).all()):
        found["binary_entropy"] = binary_entropy(weights).mean(1)
    return found


def normalised_entropy(shares: Tensor) -> Tensor:
    """Entropy over log K along the last axis: 1 for equal shares, 0 where one has all, and for a single kernel.

    Args:
        shares: Non-negative, of sum 1 along the last axis, (..., K).
    """
    if shares.shape[-1] == 1:
        return torch.zeros_like(shares[..., 0])
    entropy: Tensor = torch.special.entr(shares.clamp(min=0)).sum(-1)
    return entropy / math.log(shares.shape[-1])


def binary_entropy(probabilities: Tensor) -> Tensor:
    """Entropy in bits of yes and no with these probabilities, element by element: 1 at 1/2, 0 at 0 and 1."""
    both: Tensor = torch.special.entr(probabilities) + torch.special.entr(1 - probabilities)
    return both / math.log(2)
