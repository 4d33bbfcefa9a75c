"""Per-sample measures of coefficients: entropies of attention, saturation of gates, norms of matrices.

A measure maps one part of a batch's coefficients, (B, *shape), to a number or a vector for each sample. Its statistics
over a data set are then computed like those of the part itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dynaconv.explain.coefficients import coefficient_info
from dynaconv.families import families
from dynaconv.families.family import Role

GATE_MARGIN = 0.05
"""A gate is near an end of its range within this share of the range. Without an upper end, it is near 0 below this."""


def role_of(part: str, layer: nn.Module, values: Tensor) -> Role:
    """Return the role of a part, (B, *shape). Without a family, a vector is a gate and any other part a matrix."""
    coefficient = coefficient_info(part, type(layer).__name__)
    return coefficient.role if coefficient is not None else "gate" if values.dim() == 2 else "matrix"


def gate_limit(layer: nn.Module, part: str) -> float | None:
    """Return the upper end of a gate's range, which starts at 0; None if it has none or the layer is of no family."""
    for family in families():
        if isinstance(layer, family.layers) and part in family.coefficients:
            limit = family.coefficients[part].limit
            return limit(layer) if callable(limit) else limit
    return None


def measure(values: Tensor, role: Role, limit: float | None = None) -> dict[str, Tensor]:
    """Return the measures of a part's role for each sample.

    Args:
        values: One part of a batch's coefficients, (B, *shape).
        role: How the part acts.
        limit: Upper end of a gate's range; None if it has none.

    Returns:
        - mixing: `share` (B, K), weights divided by their sum; `entropy` (B,), entropy of the shares over log K;
          `total` (B,), sum of the weights; `largest` (B, K), 1 for the kernel with the largest weight; and, if all
          weights are in 0 to 1, `binary_entropy` (B,), entropy of each weight as a probability, in bits, averaged over
          the kernels.
        - gate: `near_zero` (B,), share of elements near 0; with a limit also `saturated` (B,), share near the limit.
        - matrix: `norm` (B,), Frobenius norm.
    """
    if role == "mixing":
        return _measure_mixing(values.double())
    flat = values.double().flatten(1)
    if role == "matrix":
        return {"norm": flat.norm(dim=1)}
    margin = GATE_MARGIN * (limit or 1.0)
    measures = {"near_zero": (flat.abs() < margin).double().mean(1)}
    if limit is not None:
        measures["saturated"] = (flat > limit - margin).double().mean(1)
    return measures


def _measure_mixing(weights: Tensor) -> dict[str, Tensor]:
    total = weights.sum(1)
    shares = weights / total.clamp(min=torch.finfo(weights.dtype).tiny)[:, None]
    measures = {
        "share": shares,
        "entropy": normalised_entropy(shares),
        "total": total,
        "largest": torch.nn.functional.one_hot(weights.argmax(1), weights.shape[1]).double(),
    }
    if bool(((weights >= 0) & (weights <= 1)).all()):
        measures["binary_entropy"] = binary_entropy(weights).mean(1)
    return measures


def normalised_entropy(shares: Tensor) -> Tensor:
    """Return the entropy over log K along the last axis: 1 for equal shares, 0 if one share is 1 or K = 1.

    Args:
        shares: Non-negative, with sum 1 along the last axis, (..., K).
    """
    if shares.shape[-1] == 1:
        return torch.zeros_like(shares[..., 0])
    entropy: Tensor = torch.special.entr(shares.clamp(min=0)).sum(-1)
    return entropy / math.log(shares.shape[-1])


def binary_entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy in bits of Bernoulli variables, element-wise: 1 at probability 1/2, 0 at 0 and 1."""
    both: Tensor = torch.special.entr(probabilities) + torch.special.entr(1 - probabilities)
    return both / math.log(2)
