"""Alternating least squares for T_j = Lambda_j W0 + P Phi_j Q^T over a few target matrices T_j; only L is given.

For fixed Lambda W0, P, Phi and Q are a Tucker decomposition with two factors that all targets share. Higher-order
orthogonal iteration computes it. For a fixed residual, the i-th rows of all T_j - P Phi_j Q^T form a J x N matrix, and
its best rank-one approximation gives (Lambda_ji)_j and row i of W0. The alternation never increases the error, but it
converges slowly if the two parts resemble each other. Anderson acceleration over the last steps makes it many times
shorter.

Shapes: targets (J, M, N), scale (J, M), weight (M, N), p (M, L), q (N', L), fusion (J, L, L). `columns` selects the N'
columns that the residual covers: all columns, or those of the centre taps.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

HISTORY_SIZE = 20
"""Number of past steps that Anderson acceleration combines."""
PATIENCE = 100
"""The search stops if the error falls by less than the share `MIN_PROGRESS` over this number of steps."""
MIN_PROGRESS = 1e-3
ENERGY_TOLERANCE = 1e-6
"""Orthogonal iteration stops if a sweep increases the residual's energy by at most this share."""
EXACT_ERROR = 1e-10
"""Relative error at which a fit counts as exact and the search stops."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Residual:
    """P Phi_j Q^T on the selected columns."""

    p: Tensor
    fusion: Tensor
    q: Tensor
    converged: bool = False

    def to_dense(self, like: Tensor, columns: slice) -> Tensor:
        """Return the residual of each target, (J, M, N), zero outside the columns."""
        dense = torch.zeros_like(like)
        dense[:, :, columns] = self.p @ self.fusion @ self.q.T
        return dense


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """Lambda, W0 and the residual, their relative error, and whether the search converged before the step limit."""

    scale: Tensor
    weight: Tensor
    residual: Residual
    error: float
    converged: bool


def fit_residual(targets: Tensor, columns: slice, max_steps: int, q: Tensor) -> Residual:
    """Fit P Phi_j Q^T alone, by orthogonal iteration from an initial Q."""
    part = targets[:, :, columns]
    residual = _residual_step(part, q)
    energy = float(residual.fusion.square().sum())
    for _ in range(max_steps):
        residual = _residual_step(part, residual.q)
        last, energy = energy, float(residual.fusion.square().sum())
        if energy - last <= ENERGY_TOLERANCE * energy:
            return replace(residual, converged=True)
    return residual


def fit_both(targets: Tensor, columns: slice, max_steps: int, scale: Tensor, weight: Tensor, q: Tensor) -> Solution:
    """Fit Lambda, W0 and the residual jointly, by accelerated alternation from an initial Lambda, W0 and Q."""
    total = float(targets.norm())
    anderson = _Anderson()
    current = _static_vector(*_unit_columns(scale, weight))
    accepted = current, q
    errors: list[float] = []
    solution = _step(targets, current, q, columns, total)
    for _ in range(max_steps):
        if errors and solution.error > errors[-1]:
            # The extrapolation increased the error. Return to the last plain step, from where the error never rises.
            anderson.clear()
            current, q = accepted
            solution = _step(targets, current, q, columns, total)
        errors.append(solution.error)
        if _converged(errors):
            return replace(solution, converged=True)
        accepted = _static_vector(solution.scale, solution.weight), solution.residual.q
        current, q = anderson.next(current, accepted[0]), accepted[1]
        best, solution = solution, _step(targets, current, q, columns, total)
    return min(best, solution, key=lambda entry: entry.error)


def solve_scale(targets: Tensor, weight: Tensor, residual: Residual, columns: slice) -> Tensor:
    """Solve the least squares problem for Lambda_j exactly, given W0, P and Q; Phi_j is optimal for each Lambda_j.

    P and Q are orthonormal, so the optimal Phi_j is P^T (T_j - Lambda_j W0) Q. Substituting it gives a linear system
    whose M x M matrix is the same for all targets.
    """
    p, q = residual.p, residual.q
    outputs = p @ p.T
    projected = weight[:, columns] @ q
    system = weight.square().sum(1).diag() - outputs * (projected @ projected.T)
    rest = targets.clone()
    rest[:, :, columns] -= outputs @ targets[:, :, columns] @ q @ q.T
    inverse: Tensor = torch.linalg.pinv(system, hermitian=True, rtol=1e-12)
    return (rest * weight).sum(2) @ inverse


def rank_one_rows(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Fit Lambda_j W0 alone, as one rank-one matrix per row of the targets. Lambda's columns have unit length."""
    rows = targets.transpose(0, 1)  # (M, J, N)
    scale: Tensor = torch.linalg.eigh(rows @ rows.mT).eigenvectors[:, :, -1]
    return scale.T, torch.einsum("mj,jmn->mn", scale, targets)


def leading_directions(targets: Tensor, count: int) -> Tensor:
    """Return orthonormal directions (N, count) with most of the energy of the targets' rows.

    If N > M, the targets are first projected onto the leading `count` directions of their columns, so that the
    eigenproblem has the size of the shorter side.
    """
    num_rows, num_columns = targets.shape[1:]
    shorter = targets if num_columns <= num_rows else targets.mT
    stacked = shorter.flatten(0, 1)
    directions: Tensor = torch.linalg.eigh(stacked.T @ stacked).eigenvectors.flip(1)[:, :count]
    if num_columns <= num_rows:
        return directions
    return _right_singular(directions.T @ targets, count)


def extend_directions(targets: Tensor, q: Tensor, count: int) -> Tensor:
    """Extend Q (N', L) to `count` orthonormal columns by the leading directions of the targets outside its span."""
    if count == q.shape[1]:
        return q
    more = leading_directions(targets - targets @ q @ q.T, count - q.shape[1])
    extended: Tensor = torch.linalg.qr(torch.cat([q, more], dim=1)).Q
    return extended


def _residual_step(part: Tensor, q: Tensor) -> Residual:
    """Run one sweep of orthogonal iteration: compute the best P for this Q, the best Q for that P, and Phi."""
    p = _right_singular((part @ q).mT, q.shape[1])
    latent = p.T @ part
    q = _right_singular(latent, q.shape[1])
    return Residual(p=p, fusion=latent @ q, q=q)


def _right_singular(matrices: Tensor, count: int) -> Tensor:
    """Return the leading right singular vectors (N, count) of the vertically stacked matrices (J, L, N)."""
    vh: Tensor = torch.linalg.svd(matrices.flatten(0, 1), full_matrices=False).Vh
    return vh[:count].T


def _step(targets: Tensor, static: Tensor, q: Tensor, columns: slice, total: float) -> Solution:
    """Run one step of the alternation from Q and Lambda W0; `static` is the vector of `_static_vector`."""
    num_targets, num_rows, _ = targets.shape
    scale = static[: num_targets * num_rows].reshape(num_targets, num_rows)
    weight = static[num_targets * num_rows :].reshape(num_rows, -1)
    scale, _ = _unit_columns(scale, weight)
    residual = _residual_step((targets - scale[:, :, None] * weight)[:, :, columns], q)
    rest = targets - residual.to_dense(targets, columns)
    new_scale, new_weight = rank_one_rows(rest)
    # The sign of a singular vector is arbitrary; the acceleration needs the sign that agrees with the last step.
    sign = torch.where((new_scale * scale).sum(0) < 0, -1.0, 1.0).to(scale)
    new_scale, new_weight = new_scale * sign, new_weight * sign[:, None]
    error = float((rest - new_scale[:, :, None] * new_weight).norm()) / total
    return Solution(scale=new_scale, weight=new_weight, residual=residual, error=error, converged=False)


def _unit_columns(scale: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same Lambda W0 with columns of Lambda scaled to unit length."""
    length = scale.norm(dim=0).clamp(min=1e-30)
    return scale / length, weight * length[:, None]


def _static_vector(scale: Tensor, weight: Tensor) -> Tensor:
    """Concatenate Lambda and W0. Lambda's unit columns get the length of W0's rows; only their direction matters."""
    return torch.cat([(scale * weight.norm(dim=1)).flatten(), weight.flatten()])


def _converged(errors: list[float]) -> bool:
    if errors[-1] <= EXACT_ERROR:
        return True
    return len(errors) > PATIENCE and errors[-1] > (1 - MIN_PROGRESS) * errors[-1 - PATIENCE]


@dataclass
class _Anderson:
    """Anderson acceleration: combine the last steps so that the predicted residual of the next step is smallest.

    Reference: Walker and Ni, "Anderson acceleration for fixed-point iterations", SIAM J. Numer. Anal. 2011.
    """

    values: list[Tensor] = field(default_factory=list)
    residuals: list[Tensor] = field(default_factory=list)

    def next(self, point: Tensor, value: Tensor) -> Tensor:
        """Return the next point to evaluate, after a step mapped `point` to `value`."""
        self.values = [*self.values[-HISTORY_SIZE:], value]
        self.residuals = [*self.residuals[-HISTORY_SIZE:], value - point]
        if len(self.values) == 1:
            return value
        residual_differences = torch.stack(self.residuals).diff(dim=0)
        normal = residual_differences @ residual_differences.T
        # Near convergence the differences become parallel. A ridge at rounding level keeps the system solvable.
        ridge = 1e-14 * normal.diagonal().max().clamp(min=1e-300) * torch.eye(len(normal)).to(normal)
        weights: Tensor = torch.linalg.solve(normal + ridge, residual_differences @ self.residuals[-1])
        value_differences = torch.stack(self.values).diff(dim=0)
        return value - weights @ value_differences

    def clear(self) -> None:
        """Discard the past steps."""
        self.values, self.residuals = [], []
