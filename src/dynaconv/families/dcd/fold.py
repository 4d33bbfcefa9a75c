"""Fold fixed batch norms around Phi into Phi itself, which makes the normalised form an ordinary DCD kernel."""

import torch
from torch import Tensor

from dynaconv.families.dcd.factors import split_rows
from dynaconv.ops.precision import full_precision


def fold_latent_norms(
    fusion: Tensor, p: Tensor, norm1: tuple[Tensor, Tensor], norm2: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Rewrite P (BN2(Phi z) + z), z = BN1(Q^T x), as P Phi' Q^T x + b with fixed statistics.

    With BN_i(t) = s_i t + t_i: Phi' = (diag(s_2) Phi + I) diag(s_1), b = P ((diag(s_2) Phi + I) t_1 + t_2).

    Args:
        fusion: Phi(x), ``(B, blocks, L, L)``.
        p: P, ``(C_out, L)``.
        norm1: Scale and shift of BN1, each ``(blocks * L,)``.
        norm2: Scale and shift of BN2, each ``(blocks * L,)``.

    Returns:
        Phi'(x), ``(B, blocks, L, L)``, and the bias of each sample, ``(B, C_out)``.
    """
    blocks, latent = fusion.shape[1], fusion.shape[2]
    (scale1, shift1), (scale2, shift2) = (
        (s.reshape(blocks, latent), t.reshape(blocks, latent)) for s, t in (norm1, norm2)
    )
    with full_precision(fusion.device):
        with_skip = scale2[:, :, None] * fusion + torch.eye(latent, dtype=fusion.dtype, device=fusion.device)
        latent_bias = torch.matmul(with_skip, shift1[:, :, None]).squeeze(3) + shift2  # (B, blocks, L)
        rows = split_rows(p, blocks).to(fusion.dtype)  # (blocks, C_out / blocks, L)
        bias = torch.matmul(rows, latent_bias.unsqueeze(3)).squeeze(3).flatten(1)
        return with_skip * scale1[:, None, :], bias
