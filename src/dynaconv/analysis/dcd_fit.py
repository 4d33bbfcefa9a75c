"""How well one DCD kernel can stand in for a mixture of K kernels, by latent size.

The question behind the paper: W(x) = sum_k a_k(x) W_k needs K kernels, Lambda(x) W0 + P Phi(x) Q^T about one; how much
of the mixture is lost? The answer depends on the attention only through its second moments: Lambda and Phi at their
best are linear in W(x), hence in the attention, so that the error over B samples equals that over at most K matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dynaconv.analysis._dcd_alternation import (
    EXACT,
    Residual,
    Solution,
    extend_directions,
    fit_both,
    fit_residual,
    leading_directions,
    rank_one_rows,
    solve_scale,
)
from dynaconv.analysis.mixtures import as_matrices, check_attention, check_groups, check_kernels, ratio

Taps = Literal["all", "centre"]


class FitCoefficients(NamedTuple):
    """What a fit makes of attention; `scale` is None where the fit has no Lambda."""

    scale: Tensor | None
    """Diagonal of Lambda(x), (B, C_out)."""
    fusion: Tensor
    """Phi(x), (B, groups, L, L)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DCDFit:
    """The DCD kernel found for a mixture, in float64, and what it misses.

    Attributes:
        latent_dim: L.
        weight: W0, (C_out, C_in / groups, k_h, k_w). With Lambda its rows are scaled such that Lambda is 1 on average
            over the batch, unless a row's average is next to nothing.
        p: Orthonormal columns, (groups, C_out / groups, L).
        q: Orthonormal columns, (groups, N', L), where N' is C_in / groups * k_h * k_w, or C_in / groups with
            `taps="centre"`.
        taps: Which taps the residual P Phi Q^T is on.
        sample_errors: |W(x) - its DCD| / |W(x)| for each sample of the batch, (B,), Frobenius norms.
        error: The same over the whole batch.
        residual_error: |W(x) - its DCD| over the batch relative to what varies, |W(x) - mean of W(x)|; the mean kernel
            alone has 1.
        static_error: As `error`, of the mean of W(x) over the batch alone.
        converged: Whether the search ended by itself, not at `max_steps`.
        origin: Attention at which `scale_map` and `fusion_map` start, (K,): the batch mean without Lambda, else zero.
        scale_map: Lambda(x) = (a(x) - origin) scale_map, (K, C_out); None without Lambda.
        fusion_map: Phi(x) likewise, (K, groups, L, L).
    """

    latent_dim: int
    weight: Tensor
    p: Tensor
    q: Tensor
    taps: Taps
    sample_errors: Tensor
    error: float
    residual_error: float
    static_error: float
    converged: bool
    origin: Tensor
    scale_map: Tensor | None
    fusion_map: Tensor

    def coefficients(self, attention: Tensor) -> FitCoefficients:
        """Lambda(x) and Phi(x) for attention (B, K), the best where it lies in the span of what the fit has seen."""
        attention = check_attention(attention, self.fusion_map) - self.origin
        scale = None if self.scale_map is None else attention @ self.scale_map
        return FitCoefficients(scale, torch.einsum("bk,kglm->bglm", attention, self.fusion_map))

    def reconstruct(self, attention: Tensor) -> Tensor:
        """Lambda(x) W0 + P Phi(x) Q^T, (B, C_out, C_in / groups, k_h, k_w)."""
        scale, fusion = self.coefficients(attention)
        shape = (len(fusion), *self.weight.shape)
        kernels = self.weight.expand(shape) if scale is None else scale[:, :, None, None, None] * self.weight
        residual = torch.zeros(shape).to(kernels).reshape(len(fusion), self.p.shape[0], self.p.shape[1], -1)
        residual[..., _columns(self.weight.shape[-2:], self.taps)] = self.p @ fusion @ self.q.mT
        return kernels + residual.reshape(shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class DCDErrorCurve:
    """Errors of the best DCD found, by latent size.

    Attributes:
        latent_dims: As asked for.
        scale: Whether the fits have Lambda.
        errors: `DCDFit.error` of each.
        residual_errors: `DCDFit.residual_error` of each.
        sample_errors: `DCDFit.sample_errors` of each, (len(latent_dims), B).
        static_error: Error of the mean of W(x) over the batch alone.
    """

    latent_dims: tuple[int, ...]
    scale: bool
    errors: tuple[float, ...]
    residual_errors: tuple[float, ...]
    sample_errors: Tensor
    static_error: float


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
    """The DCD kernel of latent size L closest to a mixture over a batch, in the squared Frobenius norm.

    Without Lambda, W0 is the mean of W(x) over the batch, which is optimal, and P and Q come from orthogonal iteration
    on the rest. With Lambda, W0 is fitted as well (with the mean in its place an exact DCD would not be found), by
    accelerated alternation from two starts: the fit without Lambda, and Lambda W0 fitted with no residual. Each ends in
    a minimum, which need not be the lowest, and the better is returned. It is never worse than the fit without Lambda.

    Args:
        kernels: (K, C_out, C_in / groups, k_h, k_w).
        attention: (B, K).
        latent_dim: L, from 0 (no residual) to the smaller side of the matrix.
        scale: With Lambda(x), or with 1 in its place.
        groups: Each group has a P, Phi and Q of its own, of size L. A depthwise kernel with `groups=1` is one C x k^2
            matrix, DCD's depthwise form.
        taps: `centre` puts the residual on the centre tap, as DCD's channel fusion does. With `all` Q reads every tap
            of every channel, N' = C_in / groups * k_h * k_w: more than any of DCD's forms with one Phi of L x L can do,
            so its error is a lower bound for theirs. The same for 1x1 kernels.
        max_steps: At most so many turns from each start.
        restarts: So many further starts from random Q, unless an exact fit is found before; for fits with Lambda.

    Raises:
        ValueError: Tensors that do not fit each other or are not finite, L out of range, unknown taps.

    Reference: Li et al., ICLR 2021, arXiv:2103.08756.
    """
    if isinstance(restarts, bool) or not isinstance(restarts, int) or restarts < 0:
        raise ValueError(f"restarts must be a whole number of at least 0; got {restarts!r}.")
    options = {"groups": groups, "max_steps": max_steps, "restarts": restarts}
    return _fits(kernels, attention, [latent_dim], scale=scale, taps=taps, **options)[0]


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
    """`fit_dcd` for several latent sizes. Each also starts from the next smaller one's fit, so no error rises with L.

    Args:
        kernels, attention, scale, groups, taps, max_steps: As for `fit_dcd`.
        latent_dims: In any order.

    Raises:
        ValueError: As `fit_dcd`, and for no latent size.
    """
    if not latent_dims:
        raise ValueError("`latent_dims` is empty; pass at least one latent size, such as range(0, 9).")
    sizes = sorted(set(latent_dims))
    found = _fits(kernels, attention, sizes, scale=scale, groups=groups, taps=taps, max_steps=max_steps)
    by_size = dict(zip(sizes, found, strict=True))
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
    """The few matrices whose fit is the fit over the batch.

    With the singular value decomposition of the attention minus an origin, the samples' kernels (minus the origin's)
    are `loadings` (B, J), whose columns are orthogonal and of mean square 1, times these J matrices.
    """

    matrices: Tensor
    """(J, groups, M, N)."""
    loadings: Tensor
    inverse: Tensor
    """Loadings of attention minus origin, (K, J)."""
    origin: Tensor
    """(K,)."""

    @classmethod
    def of(cls, kernels: Tensor, attention: Tensor, origin: Tensor) -> _Targets:
        """From kernels (K, groups, M, N)."""
        count = len(attention)
        u, values, vh = torch.linalg.svd(attention - origin, full_matrices=False)
        kept = values > 4 * max(attention.shape) * torch.finfo(values.dtype).eps * attention.norm()
        values, vh = values[kept] / count**0.5, vh[kept]
        matrices = torch.einsum("jk,kgmn->jgmn", values[:, None] * vh, kernels)
        return cls(matrices, u[:, kept] * count**0.5, (vh / values[:, None]).T, origin)

    def energies(self, matrices: Tensor) -> Tensor:
        """Squared norm of each sample's combination of the matrices, (B,)."""
        flat = matrices.flatten(1)
        return torch.einsum("bi,ij,bj->b", self.loadings, flat @ flat.T, self.loadings).clamp(min=0)


def _fits(
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
    """A fit for each of the ascending sizes."""
    kernels = check_kernels(kernels).double()
    attention = check_attention(attention, kernels)
    matrices = as_matrices(kernels, check_groups(kernels, groups))
    columns = _columns(kernels.shape[3:], taps)
    _check_sizes(sizes, matrices[..., columns].shape[2:], max_steps)
    whole = _Targets.of(matrices, attention, torch.zeros_like(attention[0]))
    varying = _Targets.of(matrices, attention, attention.mean(0))
    if varying.matrices.norm() <= 1e-14 * whole.matrices.norm():
        # Equal kernels whose weights sum to one leave nothing but rounding.
        varying = varying._replace(matrices=torch.zeros_like(varying.matrices))
    mean = torch.einsum("k,kgmn->gmn", varying.origin, matrices)
    fits: list[DCDFit] = []
    plain: list[Residual] = []
    both: list[Solution] = []
    for size in sizes:
        plain = [
            _fit_plain(varying.matrices[:, g], size, columns, max_steps, plain[g].q if plain else None)
            for g in range(groups)
        ]
        if scale:
            both = [
                _fit_scaled(
                    whole.matrices[:, g], columns, max_steps, mean[g], plain[g], both[g] if both else None, restarts
                )
                for g in range(groups)
            ]
        fits.append(_assembled(whole, varying, mean, plain, both, kernels.shape[1:], taps))
    return fits


def _fit_plain(targets: Tensor, size: int, columns: slice, max_steps: int, smaller: Tensor | None) -> Residual:
    """The best residual found without Lambda, from the leading singular directions and from the smaller fit's Q."""
    part = targets[:, :, columns]
    if targets.norm() == 0:
        p, q = (torch.eye(length, size).to(targets) for length in part.shape[1:])
        return Residual(p=p, fusion=targets.new_zeros(len(targets), size, size), q=q, converged=True)
    starts = [leading_directions(part, size)]
    starts += [] if smaller is None else [extend_directions(part, smaller, size)]
    found = [fit_residual(targets, columns, max_steps, q) for q in starts]
    return max(found, key=lambda residual: float(residual.fusion.norm()))


def _fit_scaled(
    targets: Tensor,
    columns: slice,
    max_steps: int,
    mean: Tensor,
    plain: Residual,
    smaller: Solution | None,
    restarts: int,
) -> Solution:
    """The best fit found with Lambda: from the one without, Lambda W0 alone, the smaller one, and random Q."""
    if targets.norm() == 0:
        scale = targets.new_zeros(targets.shape[:2])
        residual = replace(plain, fusion=targets.new_zeros(len(targets), *plain.fusion.shape[1:]))
        return Solution(scale=scale, weight=mean, residual=residual, error=0.0, converged=True)
    best: Solution | None = None
    for start in _starts(targets, columns, mean, plain, smaller, restarts):
        found = fit_both(targets, columns, max_steps, *start)
        best = found if best is None or found.error < best.error else best
        if best.error <= EXACT:
            break
    assert best is not None
    return best


def _starts(
    targets: Tensor, columns: slice, mean: Tensor, plain: Residual, smaller: Solution | None, restarts: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Lambda, W0 and Q to start from, each made when it is asked for."""
    size = plain.q.shape[1]
    yield solve_scale(targets, mean, plain, columns), mean, plain.q
    scale, weight = rank_one_rows(targets)
    yield scale, weight, leading_directions((targets - scale[:, :, None] * weight)[:, :, columns], size)
    if smaller is not None:
        rest = (targets - smaller.scale[:, :, None] * smaller.weight)[:, :, columns]
        yield smaller.scale, smaller.weight, extend_directions(rest, smaller.residual.q, size)
    generator = torch.Generator().manual_seed(0)
    for _ in range(restarts):
        drawn = torch.randn(plain.q.shape, generator=generator, dtype=targets.dtype).to(targets.device)
        residual = fit_residual(targets, columns, 1, torch.linalg.qr(drawn).Q)
        yield *rank_one_rows(targets - residual.fill(targets, columns)), residual.q


def _assembled(
    whole: _Targets,
    varying: _Targets,
    mean: Tensor,
    plain: list[Residual],
    both: list[Solution],
    shape: torch.Size,
    taps: Taps,
) -> DCDFit:
    """The groups' solutions as one fit; those with Lambda where there are any."""
    columns = _columns(shape[2:], taps)
    if both:
        seen, residuals = whole, [solution.residual for solution in both]
        scale = torch.stack([solution.scale for solution in both], dim=1)  # (J, groups, M)
        weight = torch.stack([solution.weight for solution in both])
        average = torch.einsum("j,jgm->gm", seen.loadings.mean(0), scale)
        usable = average.abs() > 1e-3 * scale.norm(dim=0)
        average = torch.where(usable, average, torch.ones_like(average))
        scale, weight = scale / average, weight * average[:, :, None]
        scale_map = seen.inverse @ scale.flatten(1)
        static = scale[..., None] * weight
    else:
        seen, residuals, weight, scale_map, static = varying, plain, mean, None, torch.zeros_like(varying.matrices)
    filled = [part.fill(seen.matrices[:, g], columns) for g, part in enumerate(residuals)]
    missed = seen.energies(seen.matrices - static - torch.stack(filled, dim=1))
    samples = whole.energies(whole.matrices)
    moving = float(varying.energies(varying.matrices).sum())
    total, lost = float(samples.sum()), float(missed.sum())
    fusion = torch.stack([part.fusion for part in residuals], dim=1)
    return DCDFit(
        latent_dim=residuals[0].q.shape[1],
        weight=weight.reshape(shape),
        p=torch.stack([part.p for part in residuals]),
        q=torch.stack([part.q for part in residuals]),
        taps=taps,
        sample_errors=torch.where(samples > 0, (missed / samples).sqrt(), torch.zeros_like(missed)),
        error=ratio(lost, total) ** 0.5,
        residual_error=ratio(lost, moving) ** 0.5,
        static_error=ratio(moving, total) ** 0.5,
        converged=all(part.converged for part in both or residuals),
        origin=seen.origin,
        scale_map=scale_map,
        fusion_map=torch.einsum("kj,jglm->kglm", seen.inverse, fusion),
    )


def _columns(kernel_size: Sequence[int], taps: Taps) -> slice:
    """The columns of a group's matrix that the residual is on; those of one channel's taps lie side by side."""
    if taps not in ("all", "centre"):
        raise ValueError(f"taps must be 'all' or 'centre'; got {taps!r}.")
    height, width = kernel_size
    return slice(None) if taps == "all" else slice(height // 2 * width + width // 2, None, height * width)


def _check_sizes(sizes: Sequence[int], sides: Sequence[int], max_steps: int) -> None:
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= min(sides):
            raise ValueError(
                f"latent_dim={size!r} must be a whole number from 0 to {min(sides)}, the smaller side of the "
                f"{sides[0]} x {sides[1]} matrix that the residual is."
            )
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(f"max_steps must be a whole number of at least 1; got {max_steps!r}.")
