"""How many directions a mixture of kernels uses: singular values, effective rank, energy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dynaconv.analysis.decomposition import residual_form
from dynaconv.analysis.mixtures import as_matrices, check_groups


@dataclass(frozen=True, kw_only=True, eq=False)
class ResidualSpectrum:
    """Singular values of the kernels' residuals dW_k, float64, descending.

    A grouped kernel is a block-diagonal matrix; its singular values are those of all groups together.

    Attributes:
        per_kernel: Of each dW_k, (K, R).
        outputs: Of [dW_1 ... dW_K] side by side, C_out x (K C_in): the directions the residuals write to.
        inputs: Of the same one below the other, (K C_out) x C_in: the directions they read from.
        mean: Of W_mean, (R,), for comparison.
    """

    per_kernel: Tensor
    outputs: Tensor
    inputs: Tensor
    mean: Tensor


def residual_spectrum(kernels: Tensor, *, groups: int = 1) -> ResidualSpectrum:
    """The singular values of each kernel's residual and of all residuals jointly.

    Args:
        kernels: (K, C_out, C_in / groups, k_h, k_w).
        groups: Of the convolution; see `svd_form`.

    Raises:
        ValueError: Another number of axes, numbers that are not finite, or groups that do not divide C_out.
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
    """exp of the entropy of the singular values divided by their sum: n for n equal ones, 1 for one, 0 for none.

    Args:
        singular_values: Non-negative, any shape.

    Raises:
        ValueError: A negative value, or none at all.

    Reference: Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.
    """
    values = _checked(singular_values)
    if values.sum() == 0:
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def cumulative_energy(singular_values: Tensor) -> Tensor:
    """Share of the energy (the sum of squares) in the largest 1, 2, ... singular values; zeros when there is none."""
    energy = _descending(_checked(singular_values)).square().cumsum(0)
    return energy / energy[-1] if energy[-1] > 0 else energy


def directions_for_energy(singular_values: Tensor, share: float) -> int:
    """How many of the largest singular values carry at least this share of the energy; 0 when there is none.

    Args:
        singular_values: Non-negative, any shape.
        share: Above 0 up to 1, such as 0.9.

    Raises:
        ValueError: A share outside this range, a negative value, or none at all.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1; got {share!r}. For 90 % pass 0.9.")
    energy = cumulative_energy(singular_values)
    if energy[-1] == 0:
        return 0
    # Rounding may leave the sum of all an ulp or two short of a share that it should just reach.
    return int((energy < share - 1e-12).sum()) + 1


def _checked(singular_values: Tensor) -> Tensor:
    values = singular_values.detach().double().flatten()
    if values.numel() == 0 or bool((values < 0).any()) or not bool(values.isfinite().all()):
        raise ValueError(
            f"singular values are finite and not negative, at least one; got {tuple(singular_values.shape)}"
            f"{f' with minimum {float(values.min()):.3g}' if values.numel() else ''}."
        )
    return values


def _descending(values: Tensor) -> Tensor:
    return values.sort(dim=-1, descending=True).values
