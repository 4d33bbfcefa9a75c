"""Least squares for T_j = Lambda_j W0 + P Phi_j Q^T over a few target matrices T_j, everything unknown but L.

With Lambda W0 given, P, Phi and Q are a Tucker decomposition with two factors shared by the targets, which higher-order
orthogonal iteration finds. With the residual given, row i of all T_j - P Phi_j Q^T is a matrix of rank one,
(Lambda_ji)_j times row i of W0. Taking turns never raises the error, but creeps where the two parts resemble each
other; Anderson acceleration over the last steps makes it many times shorter.

Shapes: targets (J, M, N), scale (J, M), weight (M, N), p (M, L), q (N', L), fusion (J, L, L). `columns` picks the N'
columns that the residual may fill, all of them or the centre taps.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

HISTORY = 20
"""Steps that the acceleration combines."""
PATIENCE = 100
"""Steps over which the error must fall by `PROGRESS` of itself, or the search ends."""
PROGRESS = 1e-3
GAIN = 1e-6
"""Orthogonal iteration ends when a sweep adds a smaller share to the residual's energy."""
EXACT = 1e-10
"""Relative error of a fit that counts as exact, where the search ends."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Residual:
    """P Phi_j Q^T on the chosen columns."""

    p: Tensor
    fusion: Tensor
    q: Tensor
    converged: bool = False

    def fill(self, like: Tensor, columns: slice) -> Tensor:
        """The residual of each target, (J, M, N): zero outside the columns."""
        filled = torch.zeros_like(like)
        filled[:, :, columns] = self.p @ self.fusion @ self.q.T
        return filled


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """All parts, their relative error and whether the search ended by itself."""

    scale: Tensor
    weight: Tensor
    residual: Residual
    error: float
    converged: bool

    def remainder(self, targets: Tensor, columns: slice) -> Tensor:
        """What the solution leaves of the targets, (J, M, N)."""
        return targets - self.scale[:, :, None] * self.weight - self.residual.fill(targets, columns)


def fit_residual(targets: Tensor, columns: slice, max_steps: int, q: Tensor) -> Residual:
    """The best P Phi_j Q^T alone, by orthogonal iteration from a given Q."""
    part = targets[:, :, columns]
    residual = _residual_step(part, q)
    energy = float(residual.fusion.square().sum())
    for _ in range(max_steps):
        residual = _residual_step(part, residual.q)
        last, energy = energy, float(residual.fusion.square().sum())
        if energy - last <= GAIN * energy:
            return replace(residual, converged=True)
    return residual


def fit_both(targets: Tensor, columns: slice, max_steps: int, scale: Tensor, weight: Tensor, q: Tensor) -> Solution:
    """Lambda, W0 and the residual together, by accelerated alternation from the given Lambda, W0 and Q."""
    total = float(targets.norm())
    mixer = _Anderson()
    current = _static_vector(*_balanced(scale, weight))
    accepted = current, q
    errors: list[float] = []
    solution = _step(targets, current, q, columns, total)
    for _ in range(max_steps):
        if errors and solution.error > errors[-1]:
            # The extrapolation went too far: back to the last step, from where plain alternation never rises.
            mixer.clear()
            current, q = accepted
            solution = _step(targets, current, q, columns, total)
        errors.append(solution.error)
        if _finished(errors):
            return replace(solution, converged=True)
        accepted = _static_vector(solution.scale, solution.weight), solution.residual.q
        current, q = mixer.next(current, accepted[0]), accepted[1]
        best, solution = solution, _step(targets, current, q, columns, total)
    return min(best, solution, key=lambda entry: entry.error)


def solve_scale(targets: Tensor, weight: Tensor, residual: Residual, columns: slice) -> Tensor:
    """The exact least squares Lambda_j with W0, P and Q given, and Phi_j at its best for whatever Lambda_j is.

    Orthonormal P and Q make Phi_j = P^T (T_j - Lambda_j W0) Q; with that put in, one M x M system serves all targets.
    """
    p, q = residual.p, residual.q
    outputs = p @ p.T
    seen = weight[:, columns] @ q
    system = weight.square().sum(1).diag() - outputs * (seen @ seen.T)
    rest = targets.clone()
    rest[:, :, columns] -= outputs @ targets[:, :, columns] @ q @ q.T
    inverse: Tensor = torch.linalg.pinv(system, hermitian=True, rtol=1e-12)
    return (rest * weight).sum(2) @ inverse


def rank_one_rows(targets: Tensor) -> tuple[Tensor, Tensor]:
    """The best Lambda_j W0 alone: for each row of the targets a rank-one matrix; Lambda's columns have unit length."""
    rows = targets.transpose(0, 1)  # (M, J, N)
    scale: Tensor = torch.linalg.eigh(rows @ rows.mT).eigenvectors[:, :, -1]
    return scale.T, torch.einsum("mj,jmn->mn", scale, targets)


def leading_directions(targets: Tensor, count: int) -> Tensor:
    """Orthonormal directions (N, count) that the rows of all targets have most of, found through the shorter side."""
    num_rows, num_columns = targets.shape[1:]
    shorter = targets if num_columns <= num_rows else targets.mT
    stacked = shorter.flatten(0, 1)
    directions: Tensor = torch.linalg.eigh(stacked.T @ stacked).eigenvectors.flip(1)[:, :count]
    if num_columns <= num_rows:
        return directions
    return _right_singular(directions.T @ targets, count)


def extend_directions(targets: Tensor, q: Tensor, count: int) -> Tensor:
    """Q (N', L) with the leading directions of what it leaves of the targets, `count` in all, orthonormal."""
    if count == q.shape[1]:
        return q
    more = leading_directions(targets - targets @ q @ q.T, count - q.shape[1])
    extended: Tensor = torch.linalg.qr(torch.cat([q, more], dim=1)).Q
    return extended


def _residual_step(part: Tensor, q: Tensor) -> Residual:
    """One sweep of orthogonal iteration: the best P for this Q, the best Q for that P, and Phi."""
    p = _right_singular((part @ q).mT, q.shape[1])
    latent = p.T @ part
    q = _right_singular(latent, q.shape[1])
    return Residual(p=p, fusion=latent @ q, q=q)


def _right_singular(matrices: Tensor, count: int) -> Tensor:
    """Leading right singular vectors (N, count) of matrices (J, L, N) stacked one below the other."""
    vh: Tensor = torch.linalg.svd(matrices.flatten(0, 1), full_matrices=False).Vh
    return vh[:count].T


def _step(targets: Tensor, static: Tensor, q: Tensor, columns: slice, total: float) -> Solution:
    """One turn of the alternation from Lambda W0, given as a vector, and Q."""
    num_targets, num_rows, _ = targets.shape
    scale = static[: num_targets * num_rows].reshape(num_targets, num_rows)
    weight = static[num_targets * num_rows :].reshape(num_rows, -1)
    scale, _ = _balanced(scale, weight)
    residual = _residual_step((targets - scale[:, :, None] * weight)[:, :, columns], q)
    rest = targets - residual.fill(targets, columns)
    new_scale, new_weight = rank_one_rows(rest)
    # Both signs of a singular vector are right; the acceleration needs the one that continues the last step.
    sign = torch.where((new_scale * scale).sum(0) < 0, -1.0, 1.0).to(scale)
    new_scale, new_weight = new_scale * sign, new_weight * sign[:, None]
    error = float((rest - new_scale[:, :, None] * new_weight).norm()) / total
    return Solution(scale=new_scale, weight=new_weight, residual=residual, error=error, converged=False)


def _balanced(scale: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The same Lambda W0 with Lambda's columns of unit length."""
    length = scale.norm(dim=0).clamp(min=1e-30)
    return scale / length, weight * length[:, None]


def _static_vector(scale: Tensor, weight: Tensor) -> Tensor:
    """Lambda and W0 as one vector; Lambda's columns, which only their direction matters of, as long as W0's rows."""
    return torch.cat([(scale * weight.norm(dim=1)).flatten(), weight.flatten()])


def _finished(errors: list[float]) -> bool:
    if errors[-1] <= EXACT:
        return True
    return len(errors) > PATIENCE and errors[-1] > (1 - PROGRESS) * errors[-1 - PATIENCE]


@dataclass
class _Anderson:
    """Anderson acceleration: the combination of the last steps whose predicted change is the smallest.

    Reference: Walker and Ni, "Anderson acceleration for fixed-point iterations", SIAM J. Numer. Anal. 2011.
    """

    values: list[Tensor] = field(default_factory=list)
    changes: list[Tensor] = field(default_factory=list)

    def next(self, point: Tensor, value: Tensor) -> Tensor:
        """Where to evaluate next, after the step took `point` to `value`."""
        self.values = [*self.values[-HISTORY:], value]
        self.changes = [*self.changes[-HISTORY:], value - point]
        if len(self.values) == 1:
            return value
        steps = torch.stack([b - a for a, b in zip(self.changes, self.changes[1:], strict=False)])
        normal = steps @ steps.T
        # Steps become parallel near the end; a ridge at the level of rounding keeps the system solvable.
        ridge = 1e-14 * normal.diagonal().max().clamp(min=1e-300) * torch.eye(len(normal)).to(normal)
        mix: Tensor = torch.linalg.solve(normal + ridge, steps @ self.changes[-1])
        moves = torch.stack([b - a for a, b in zip(self.values, self.values[1:], strict=False)])
        return value - mix @ moves

    def clear(self) -> None:
        """Forget the steps so far."""
        self.values, self.changes = [], []
