"""Least-squares fits of one DCD kernel to a mixture of K kernels, by latent size.

The mixture W(x) = sum_k a_k(x) W_k stores K kernels; DCD, Lambda(x) W0 + P Phi(x) Q^T, stores about one. A fit measures
how much of the mixture DCD loses. The optimal Lambda and Phi are linear in W(x), hence in the attention. The error
therefore depends on the attention only through its second moments, and the error over B samples equals that over at
most K matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from dynaconv.errors import received
from dynaconv.explain._dcd_alternation import (
    EXACT_ERROR,
    Residual,
    Solution,
    extend_directions,
    fit_both,
    fit_residual,
    leading_directions,
    rank_one_rows,
    solve_scale,
)
from dynaconv.explain._dcd_result import DCDErrorCurve, DCDFit, Taps, columns_of
from dynaconv.explain.mixtures import as_matrices, check_attention, check_groups, check_kernels, ratio
from dynaconv.families.contract.checks import check_integer

__all__ = ["DCDErrorCurve", "DCDFit", "dcd_error_curve", "fit_dcd"]


def fit_dcd(
    kernels: Tensor,
    attention: Tensor,
    latent_dim: int,
    *,
    scale: bool = True,
    groups: int = 1,
    taps: Taps = "all",
    max_steps: int = 4000,
    restarts: int = 8,
) -> DCDFit:
    """Fit a DCD kernel of latent size L to a mixture over a batch, in the squared Frobenius norm.

    Without Lambda, W0 is the mean of W(x) over the batch, which is optimal, and orthogonal iteration fits P and Q to
    the rest. With Lambda, W0 is fitted as well, because with the mean as W0 even an exact DCD has no exact fit. An
    accelerated alternation runs from two initial values: the fit without Lambda, and Lambda W0 fitted without a
    residual. Each run ends in a local minimum, which need not be the global one, and the better result is returned. It
    is never worse than the fit without Lambda.

    Args:
        kernels: (K, C_out, C_in / groups, k_h, k_w).
        attention: (B, K).
        latent_dim: L, from 0 (no residual) to the smaller side of the matrix.
        scale: Whether to fit Lambda(x); without it Lambda(x) is 1.
        groups: Number of groups. Each group has its own P, Phi and Q of size L. A depthwise kernel with `groups=1` is
            one C x k^2 matrix, DCD's depthwise form.
        taps: `centre` puts the residual on the centre tap, as DCD's channel fusion does. With `all` Q covers every tap
            of every channel, N' = C_in / groups * k_h * k_w. No form of DCD with one Phi of L x L is as general, so
            the error is a lower bound for all of them. For 1x1 kernels both settings are equal.
        max_steps: Maximum number of steps from each initial value.
        restarts: Number of further runs from a random Q, for fits with Lambda. The first exact fit ends the search.

    Raises:
        ValueError: The tensors do not match or are not finite, or L, groups, taps, steps or restarts are invalid.

    Reference: Li et al., ICLR 2021, arXiv:2103.08756.
    """
    check_integer("restarts", restarts, least=0)
    options = {"groups": groups, "max_steps": max_steps, "restarts": restarts}
    return _fit_sizes(kernels, attention, [latent_dim], scale=scale, taps=taps, **options)[0]


def dcd_error_curve(
    kernels: Tensor,
    attention: Tensor,
    latent_dims: Sequence[int],
    *,
    scale: bool = True,
    groups: int = 1,
    taps: Taps = "all",
    max_steps: int = 4000,
) -> DCDErrorCurve:
    """Run `fit_dcd` for several latent sizes, without random restarts.

    Each fit also starts from the fit of the next smaller size, so the error never rises with L.

    Args:
        kernels, attention, scale, groups, taps, max_steps: As for `fit_dcd`.
        latent_dims: Latent sizes, in any order.

    Raises:
        ValueError: As for `fit_dcd`, or `latent_dims` is empty.
    """
    if not latent_dims:
        raise ValueError("`latent_dims` is empty; pass at least one latent size, such as range(0, 9).")
    sizes = sorted(set(latent_dims))
    ascending = _fit_sizes(kernels, attention, sizes, scale=scale, groups=groups, taps=taps, max_steps=max_steps)
    by_size = dict(zip(sizes, ascending, strict=True))
    fits = [by_size[size] for size in latent_dims]
    return DCDErrorCurve(
        latent_dims=tuple(latent_dims),
        scale=scale,
        errors=tuple(fit.error for fit in fits),
        residual_errors=tuple(fit.residual_error for fit in fits),
        sample_errors=torch.stack([fit.sample_errors for fit in fits]),
        static_error=fits[0].static_error,
    )


class _Targets(NamedTuple):
    """At most K matrices whose least-squares fit is also the fit over the batch.

    They follow from the singular value decomposition of the attention minus an origin. The samples' kernels minus the
    kernel at the origin are `loadings`, (B, J), times these J matrices. The columns of `loadings` are orthogonal with
    mean square 1.
    """

    matrices: Tensor
    """(J, groups, M, N)."""
    loadings: Tensor
    inverse: Tensor
    """Linear map from attention minus origin to loadings, (K, J)."""
    origin: Tensor
    """(K,)."""

    @classmethod
    def of(cls, kernels: Tensor, attention: Tensor, origin: Tensor) -> _Targets:
        """Build the targets from kernels (K, groups, M, N)."""
        count = len(attention)
        u, values, vh = torch.linalg.svd(attention - origin, full_matrices=False)
        nonzero = values > 4 * max(attention.shape) * torch.finfo(values.dtype).eps * attention.norm()
        values, vh = values[nonzero] / count**0.5, vh[nonzero]
        matrices = torch.einsum("jk,kgmn->jgmn", values[:, None] * vh, kernels)
        return cls(matrices, u[:, nonzero] * count**0.5, (vh / values[:, None]).T, origin)

    def energies(self, matrices: Tensor) -> Tensor:
        """Return the squared norm of each sample's combination of the matrices, (B,)."""
        flat = matrices.flatten(1)
        return torch.einsum("bi,ij,bj->b", self.loadings, flat @ flat.T, self.loadings).clamp(min=0)


def _fit_sizes(
    kernels: Tensor,
    attention: Tensor,
    sizes: Sequence[int],
    *,
    scale: bool,
    groups: int,
    taps: Taps,
    max_steps: int,
    restarts: int = 0,
) -> list[DCDFit]:
    """Return one fit per size; `sizes` are in ascending order."""
    kernels = check_kernels(kernels).double()
    attention = check_attention(attention, kernels)
    matrices = as_matrices(kernels, check_groups(kernels, groups))
    columns = columns_of(kernels.shape[3:], taps)
    _check_sizes(sizes, matrices[..., columns].shape[2:], max_steps)
    full = _Targets.of(matrices, attention, torch.zeros_like(attention[0]))
    centred = _Targets.of(matrices, attention, attention.mean(0))
    if centred.matrices.norm() <= 1e-14 * full.matrices.norm():
        # If the kernels are equal and the attention sums to one, the centred part is only rounding error.
        centred = centred._replace(matrices=torch.zeros_like(centred.matrices))
    mean = torch.einsum("k,kgmn->gmn", centred.origin, matrices)
    fits: list[DCDFit] = []
    without_scale: list[Residual] = []
    with_scale: list[Solution] = []
    for size in sizes:
        without_scale = [
            _fit_without_scale(
                centred.matrices[:, g], size, columns, max_steps, without_scale[g].q if without_scale else None
            )
            for g in range(groups)
        ]
        if scale:
            with_scale = [
                _fit_with_scale(
                    full.matrices[:, g],
                    columns,
                    max_steps,
                    mean[g],
                    without_scale[g],
                    with_scale[g] if with_scale else None,
                    restarts,
                )
                for g in range(groups)
            ]
        fits.append(_assemble(full, centred, mean, without_scale, with_scale, kernels.shape[1:], taps))
    return fits


def _fit_without_scale(targets: Tensor, size: int, columns: slice, max_steps: int, smaller: Tensor | None) -> Residual:
    """Return the best fit without Lambda, from the leading singular directions and from the Q of the smaller fit."""
    part = targets[:, :, columns]
    if targets.norm() == 0:
        p, q = (torch.eye(length, size).to(targets) for length in part.shape[1:])
        return Residual(p=p, fusion=targets.new_zeros(len(targets), size, size), q=q, converged=True)
    initial_q = [leading_directions(part, size)]
    initial_q += [] if smaller is None else [extend_directions(part, smaller, size)]
    candidates = [fit_residual(targets, columns, max_steps, q) for q in initial_q]
    return max(candidates, key=lambda residual: float(residual.fusion.norm()))


def _fit_with_scale(
    targets: Tensor,
    columns: slice,
    max_steps: int,
    mean: Tensor,
    without_scale: Residual,
    smaller: Solution | None,
    restarts: int,
) -> Solution:
    """Return the best fit with Lambda over all of `_initial_values`."""
    if targets.norm() == 0:
        scale = targets.new_zeros(targets.shape[:2])
        residual = replace(without_scale, fusion=targets.new_zeros(len(targets), *without_scale.fusion.shape[1:]))
        return Solution(scale=scale, weight=mean, residual=residual, error=0.0, converged=True)
    best: Solution | None = None
    for initial in _initial_values(targets, columns, mean, without_scale, smaller, restarts):
        solution = fit_both(targets, columns, max_steps, *initial)
        best = solution if best is None or solution.error < best.error else best
        if best.error <= EXACT_ERROR:
            break
    assert best is not None
    return best


def _initial_values(
    targets: Tensor, columns: slice, mean: Tensor, without_scale: Residual, smaller: Solution | None, restarts: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield initial Lambda, W0 and Q: from the fit without Lambda, Lambda W0 alone, the smaller fit, and random Q."""
    size = without_scale.q.shape[1]
    yield solve_scale(targets, mean, without_scale, columns), mean, without_scale.q
    scale, weight = rank_one_rows(targets)
    yield scale, weight, leading_directions((targets - scale[:, :, None] * weight)[:, :, columns], size)
    if smaller is not None:
        rest = (targets - smaller.scale[:, :, None] * smaller.weight)[:, :, columns]
        yield smaller.scale, smaller.weight, extend_directions(rest, smaller.residual.q, size)
    generator = torch.Generator().manual_seed(0)
    for _ in range(restarts):
        drawn = torch.randn(without_scale.q.shape, generator=generator, dtype=targets.dtype).to(targets.device)
        residual = fit_residual(targets, columns, 1, torch.linalg.qr(drawn).Q)
        yield *rank_one_rows(targets - residual.to_dense(targets, columns)), residual.q


def _assemble(
    full: _Targets,
    centred: _Targets,
    mean: Tensor,
    without_scale: list[Residual],
    with_scale: list[Solution],
    shape: torch.Size,
    taps: Taps,
) -> DCDFit:
    """Combine the groups' solutions into one fit, with Lambda if `with_scale` is not empty."""
    columns = columns_of(shape[2:], taps)
    if with_scale:
        targets, residuals = full, [solution.residual for solution in with_scale]
        scale = torch.stack([solution.scale for solution in with_scale], dim=1)  # (J, groups, M)
        weight = torch.stack([solution.weight for solution in with_scale])
        average = torch.einsum("j,jgm->gm", targets.loadings.mean(0), scale)
        nonzero = average.abs() > 1e-3 * scale.norm(dim=0)
        average = torch.where(nonzero, average, torch.ones_like(average))
        scale, weight = scale / average, weight * average[:, :, None]
        scale_map = targets.inverse @ scale.flatten(1)
        static = scale[..., None] * weight
    else:
        targets, residuals, weight, scale_map, static = (
            centred,
            without_scale,
            mean,
            None,
            torch.zeros_like(centred.matrices),
        )
    dense = [part.to_dense(targets.matrices[:, g], columns) for g, part in enumerate(residuals)]
    squared_errors = targets.energies(targets.matrices - static - torch.stack(dense, dim=1))
    sample_energies = full.energies(full.matrices)
    centred_energy = float(centred.energies(centred.matrices).sum())
    energy, squared_error = float(sample_energies.sum()), float(squared_errors.sum())
    fusion = torch.stack([part.fusion for part in residuals], dim=1)
    return DCDFit(
        latent_dim=residuals[0].q.shape[1],
        weight=weight.reshape(shape),
        p=torch.stack([part.p for part in residuals]),
        q=torch.stack([part.q for part in residuals]),
        taps=taps,
        sample_errors=torch.where(
            sample_energies > 0, (squared_errors / sample_energies).sqrt(), torch.zeros_like(squared_errors)
        ),
        error=ratio(squared_error, energy) ** 0.5,
        residual_error=ratio(squared_error, centred_energy) ** 0.5,
        static_error=ratio(centred_energy, energy) ** 0.5,
        converged=all(part.converged for part in with_scale or residuals),
        origin=targets.origin,
        scale_map=scale_map,
        fusion_map=torch.einsum("kj,jglm->kglm", targets.inverse, fusion),
    )


def _check_sizes(sizes: Sequence[int], sides: Sequence[int], max_steps: int) -> None:
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= min(sides):
            raise ValueError(
                f"latent_dim={received(size)} must be an integer from 0 to {min(sides)}, the smaller side of the "
                f"residual's {sides[0]} x {sides[1]} matrix."
            )
    check_integer("max_steps", max_steps)
