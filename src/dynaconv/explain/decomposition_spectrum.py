"""Singular values, effective rank and energy of the residuals of a mixture of kernels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dynaconv.errors import check_type, received
from dynaconv.explain.decomposition import residual_form
from dynaconv.explain.mixtures import as_matrices, check_groups


@dataclass(frozen=True, kw_only=True, eq=False)
class ResidualSpectrum:
    """Singular values of the kernels' residuals dW_k, float64, descending.

    A grouped kernel is a block-diagonal matrix; its singular values are those of all groups together.

    Attributes:
        per_kernel: Singular values of each dW_k, (K, R).
        outputs: Singular values of [dW_1 ... dW_K] side by side, C_out x (K C_in): output directions of the residuals.
        inputs: Singular values of the dW_k stacked vertically, (K C_out) x C_in: input directions of the residuals.
        mean: Singular values of W_mean, (R,), for comparison.
    """

    per_kernel: Tensor
    outputs: Tensor
    inputs: Tensor
    mean: Tensor


def residual_spectrum(kernels: Tensor, *, groups: int = 1) -> ResidualSpectrum:
    """Return the singular values of each kernel's residual and of all residuals jointly.

    Args:
        kernels: (K, C_out, C_in / groups, k_h, k_w).
        groups: Groups of the convolution; see `svd_form`.

    Raises:
        ValueError: The kernels do not have 5 axes or are not finite, or `groups` does not divide C_out.
    """
    form = residual_form(kernels)
    residuals = as_matrices(form.residuals, check_groups(form.residuals, groups)).double()  # (K, groups, M, N)
    mean = as_matrices(form.mean[None], groups).double()
    side_by_side = residuals.permute(1, 2, 0, 3).flatten(2)  # (groups, M, K N)
    stacked = residuals.transpose(0, 1).flatten(1, 2)  # (groups, K M, N)
    return ResidualSpectrum(
        per_kernel=_descending(torch.linalg.svdvals(residuals).flatten(1)),
        outputs=_descending(torch.linalg.svdvals(side_by_side).flatten()),
        inputs=_descending(torch.linalg.svdvals(stacked).flatten()),
        mean=_descending(torch.linalg.svdvals(mean).flatten()),
    )


def effective_rank(singular_values: Tensor) -> float:
    """Return exp of the entropy of the singular values divided by their sum: n for n equal values, 0 if all are zero.

    Args:
        singular_values: Non-negative, any shape.

    Raises:
        ValueError: There are no values, or one is negative or not finite.

    Reference: Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.
    """
    values = _checked(singular_values)
    if values.sum() == 0:
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def cumulative_energy(singular_values: Tensor) -> Tensor:
    """Return the share of the energy (sum of squares) in the largest 1, 2, ... values; zeros if all are zero."""
    energy = _descending(_checked(singular_values)).square().cumsum(0)
    return energy / energy[-1] if energy[-1] > 0 else energy


def directions_for_energy(singular_values: Tensor, share: float) -> int:
    """Return the number of largest singular values that have at least this share of the energy; 0 if all are zero.

    Args:
        singular_values: Non-negative, any shape.
        share: Share of the energy, above 0 and at most 1, such as 0.9.

    Raises:
        ValueError: The share is out of range, there are no values, or one is negative or not finite.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1; got {received(share)}. For 90 % pass 0.9.")
    energy = cumulative_energy(singular_values)
    if energy[-1] == 0:
        return 0
    # Rounding can leave a cumulative sum a few ulps below a share that it reaches exactly.
    return int((energy < share - 1e-12).sum()) + 1


def _checked(singular_values: Tensor) -> Tensor:
    check_type("singular_values", singular_values, Tensor)
    values = singular_values.detach().double().flatten()
    if values.numel() == 0 or bool((values < 0).any()) or not bool(values.isfinite().all()):
        raise ValueError(
            f"pass at least one singular value, all finite and non-negative; got shape {tuple(singular_values.shape)}"
            f"{f' with minimum {float(values.min()):.3g}' if values.numel() else ''}."
        )
    return values


def _descending(values: Tensor) -> Tensor:
    return values.sort(dim=-1, descending=True).values
