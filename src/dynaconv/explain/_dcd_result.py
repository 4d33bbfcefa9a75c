"""What a least-squares fit of a DCD kernel to a mixture of kernels gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from dynaconv.explain.mixtures import check_attention
from dynaconv.families.contract.checks import check_choice

Taps = Literal["all", "centre"]


class FitCoefficients(NamedTuple):
    """Lambda(x) and Phi(x) of a fit for given attention; `scale` is None if the fit has no Lambda."""

    scale: Tensor | None
    """Diagonal of Lambda(x), (B, C_out)."""
    fusion: Tensor
    """Phi(x), (B, groups, L, L)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DCDFit:
    """A DCD kernel fitted to a mixture, in float64, and its errors.

    Attributes:
        latent_dim: Latent size L.
        weight: W0, (C_out, C_in / groups, k_h, k_w). In a fit with Lambda its rows are scaled so that Lambda averages
            1 over the batch, except rows whose average is close to zero.
        p: Orthonormal columns, (groups, C_out / groups, L).
        q: Orthonormal columns, (groups, N', L), where N' is C_in / groups * k_h * k_w, or C_in / groups with
            `taps="centre"`.
        taps: Taps that the residual P Phi Q^T covers.
        sample_errors: |W(x) - W_DCD(x)| / |W(x)| for each sample of the batch, (B,), Frobenius norms.
        error: The same ratio over the full batch.
        residual_error: |W(x) - W_DCD(x)| over the batch relative to the varying part, |W(x) - mean of W(x)|; 1 for the
            mean kernel alone.
        static_error: As `error`, for the mean of W(x) over the batch alone.
        converged: Whether the search converged before `max_steps`.
        origin: Attention at which Lambda(x) and Phi(x) are zero, (K,): the batch mean in a fit without Lambda, else
            zero.
        scale_map: Linear map to Lambda(x) = (a(x) - origin) scale_map, (K, C_out); None in a fit without Lambda.
        fusion_map: Linear map to Phi(x), likewise, (K, groups, L, L).
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
        """Return Lambda(x) and Phi(x) for attention (B, K). They are optimal in the span of the fitted attention."""
        attention = check_attention(attention, self.fusion_map) - self.origin
        scale = None if self.scale_map is None else attention @ self.scale_map
        return FitCoefficients(scale, torch.einsum("bk,kglm->bglm", attention, self.fusion_map))

    def reconstruct(self, attention: Tensor) -> Tensor:
        """Return Lambda(x) W0 + P Phi(x) Q^T, (B, C_out, C_in / groups, k_h, k_w)."""
        scale, fusion = self.coefficients(attention)
        shape = (len(fusion), *self.weight.shape)
        kernels = self.weight.expand(shape) if scale is None else scale[:, :, None, None, None] * self.weight
        residual = torch.zeros(shape).to(kernels).reshape(len(fusion), self.p.shape[0], self.p.shape[1], -1)
        residual[..., columns_of(self.weight.shape[-2:], self.taps)] = self.p @ fusion @ self.q.mT
        return kernels + residual.reshape(shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class DCDErrorCurve:
    """Errors of the best DCD fit found for each latent size.

    Attributes:
        latent_dims: Latent sizes, in the order of the call.
        scale: Whether the fits have Lambda.
        errors: `DCDFit.error` of each fit.
        residual_errors: `DCDFit.residual_error` of each fit.
        sample_errors: `DCDFit.sample_errors` of each fit, (len(latent_dims), B).
        static_error: Error of the mean of W(x) over the batch alone.
    """

    latent_dims: tuple[int, ...]
    scale: bool
    errors: tuple[float, ...]
    residual_errors: tuple[float, ...]
    sample_errors: Tensor
    static_error: float


def columns_of(kernel_size: Sequence[int], taps: Taps) -> slice:
    """Return the columns of a group's matrix that the residual covers; the taps of one channel are adjacent."""
    check_choice("taps", taps, get_args(Taps))
    height, width = kernel_size
    return slice(None) if taps == "all" else slice(height // 2 * width + width // 2, None, height * width)
