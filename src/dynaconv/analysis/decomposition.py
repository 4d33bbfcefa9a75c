"""Mixtures of kernels taken apart: a mean kernel plus a residual, and attention over a latent space of K * C channels.

The paper's argument in three steps. W(x) = sum_k a_k(x) W_k is the mean kernel plus a residual (`residual_form`); the
singular value decomposition of each kernel's residual makes that attention over groups of latent channels (`svd_form`);
evaluated from right to left it runs on features (`latent_form`). Each form computes the same W(x).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dynaconv.analysis.mixtures import as_matrices, check_attention, check_groups, check_kernels, mix, relative_error
from dynaconv.errors import counted


@dataclass(frozen=True, kw_only=True, eq=False)
class ResidualForm:
    """W(x) = s(x) W_mean + sum_k a_k(x) dW_k, with s(x) = sum_k a_k(x) and dW_k = W_k - W_mean.

    For a softmax s(x) = 1 and this is the paper's form; sigmoids scale the mean kernel as well.

    Attributes:
        mean: W_mean, the kernels' mean, (C_out, C_in / groups, k_h, k_w).
        residuals: dW_k, (K, C_out, C_in / groups, k_h, k_w); they add up to zero.
    """

    mean: Tensor
    residuals: Tensor

    def reconstruct(self, attention: Tensor) -> Tensor:
        """W(x), (B, C_out, C_in / groups, k_h, k_w), for attention (B, K)."""
        attention = check_attention(attention, self.residuals)
        return _scaled(self.mean, attention) + mix(self.residuals, attention)

    def energy_share(self, attention: Tensor) -> Tensor:
        """|sum_k a_k dW_k|^2 / |W(x)|^2 for each sample, (B,); 0 where W(x) is zero.

        The two parts are not orthogonal, so the share may exceed 1 where they cancel.
        """
        weights = check_attention(attention, self.residuals).double()
        residual = _energies(self.residuals, weights)
        whole = _energies(self.mean + self.residuals, weights)
        return torch.where(whole > 0, residual / whole, torch.zeros_like(whole))

    def cosine_similarity(self) -> Tensor:
        """Cosine between the residuals of every two kernels, (K, K); 0 for a residual that is zero.

        K residuals that add up to zero have cosines around -1 / (K - 1) when they are otherwise unrelated.
        """
        flat = self.residuals.flatten(1)
        lengths = flat.norm(dim=1, keepdim=True)
        directions = torch.where(lengths > 0, flat / lengths, torch.zeros_like(flat))
        return directions @ directions.T

    def error(self, attention: Tensor) -> float:
        """Relative error of `reconstruct` against the mixture itself: rounding only."""
        return relative_error(self.reconstruct(attention), mix(self.mean + self.residuals, attention))


@dataclass(frozen=True, kw_only=True, eq=False)
class SVDForm:
    """W(x) = s(x) W_mean + U Pi(x) S V^T, with dW_k = U_k S_k V_k^T and Pi(x) = blockdiag(a_k(x) I).

    The matrices are C_out x C_in for a 1x1 kernel and C_out x (C_in k_h k_w) for a larger one; a grouped kernel has one
    for each group, of M = C_out / groups by N = C_in / groups * k_h * k_w. R = min(M, N).

    Attributes:
        mean: W_mean, (C_out, C_in / groups, k_h, k_w).
        u: Left singular vectors, (K, groups, M, R).
        singular_values: Descending, (K, groups, R).
        v: Right singular vectors, (K, groups, N, R).
    """

    mean: Tensor
    u: Tensor
    singular_values: Tensor
    v: Tensor

    @property
    def num_kernels(self) -> int:
        """K."""
        return self.u.shape[0]

    @property
    def groups(self) -> int:
        """Number of matrices a kernel is read into."""
        return self.u.shape[1]

    @property
    def latent_dim(self) -> int:
        """Channels of the latent space of one group, K * R: K * C for a square 1x1 kernel."""
        return self.num_kernels * self.u.shape[3]

    def reconstruct(self, attention: Tensor) -> Tensor:
        """W(x), (B, C_out, C_in / groups, k_h, k_w), for attention (B, K)."""
        attention = check_attention(attention, self.u)
        weights = attention[:, :, None, None] * self.singular_values  # the diagonal of Pi S, (B, K, groups, R)
        residual = torch.einsum("kgmr,bkgr,kgnr->bgmn", self.u, weights, self.v)
        return _scaled(self.mean, attention) + residual.reshape(-1, *self.mean.shape)

    def error(self, kernels: Tensor, attention: Tensor) -> float:
        """Relative error of `reconstruct` against the mixture of `kernels`: rounding only."""
        return relative_error(self.reconstruct(attention), mix(kernels, attention))


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentForm:
    """y = s(x) W_mean x + U Pi(x) S V^T x by 1x1 convolutions: to latent channels, weight, back.

    V^T takes each pixel to K groups of R latent channels, K * R of them (K * C for a square kernel), the attention
    weights whole groups, U takes the result to C_out channels. The latent space is K times wider than the features,
    though attention has only K numbers to control it: what the paper sets out to mend.

    Attributes:
        svd: The factors, of pointwise kernels.
    """

    svd: SVDForm

    def features(self, x: Tensor) -> Tensor:
        """S V^T x: (B, C_in, H, W) to (B, groups, K * R, H, W), kernel k's channels from k * R on."""
        v = self.svd.v
        if x.dim() != 4 or x.shape[1] != self.svd.groups * v.shape[2]:
            raise ValueError(
                f"the input is (B, C_in, H, W) with C_in={self.svd.groups * v.shape[2]}; got {tuple(x.shape)}."
            )
        weighted = v * self.svd.singular_values[:, :, None, :]
        filters = weighted.permute(1, 0, 3, 2).reshape(-1, v.shape[2], 1, 1)  # (groups * K * R, N, 1, 1)
        latent = F.conv2d(x.to(v), filters, groups=self.svd.groups)
        return latent.reshape(x.shape[0], self.svd.groups, self.svd.latent_dim, *x.shape[2:])

    def attend(self, features: Tensor, attention: Tensor) -> Tensor:
        """Pi(x) on the latent channels: those of kernel k times a_k(x); the shape is kept."""
        attention = check_attention(attention, self.svd.u)
        per_channel = attention.repeat_interleave(self.svd.latent_dim // self.svd.num_kernels, dim=1)
        return features * per_channel[:, None, :, None, None]

    def apply(self, x: Tensor, attention: Tensor) -> Tensor:
        """The dynamic convolution of x (B, C_in, H, W) with attention (B, K): (B, C_out, H, W), no kernel formed.

        Raises:
            ValueError: The channels of x or the number of kernels are others, or the batches differ.
        """
        attention = check_attention(attention, self.svd.u)
        if len(attention) != len(x):
            raise ValueError(
                f"attention is for {counted(len(attention), 'sample')}, the input has {len(x)}; they must agree."
            )
        latent = self.attend(self.features(x), attention).flatten(1, 2)
        u = self.svd.u
        expand = u.permute(1, 2, 0, 3).reshape(-1, self.svd.latent_dim, 1, 1)  # (C_out, K * R, 1, 1)
        static = F.conv2d(x.to(u), self.svd.mean, groups=self.svd.groups)
        return static * attention.sum(1)[:, None, None, None] + F.conv2d(latent, expand, groups=self.svd.groups)


def residual_form(kernels: Tensor) -> ResidualForm:
    """The mean kernel and each kernel's difference from it.

    Args:
        kernels: (K, C_out, C_in / groups, k_h, k_w), from float16 to float64; half precision is raised to float32.

    Raises:
        ValueError: Another number of axes, or numbers that are not finite.

    Reference: Li et al., ICLR 2021, arXiv:2103.08756.
    """
    kernels = check_kernels(kernels)
    mean = kernels.mean(0)
    residuals = kernels - mean
    # Copies of one kernel differ from their mean by rounding, whose directions mean nothing: that is zero.
    rounding = 4 * torch.finfo(kernels.dtype).eps * mean.norm()
    none = torch.linalg.vector_norm(residuals, dim=(1, 2, 3, 4), keepdim=True) <= rounding
    return ResidualForm(mean=mean, residuals=residuals.masked_fill(none, 0))


def svd_form(kernels: Tensor, *, groups: int = 1) -> SVDForm:
    """The singular value decomposition of each kernel's residual.

    Args:
        kernels: (K, C_out, C_in / groups, k_h, k_w).
        groups: Of the convolution. A depthwise kernel with `groups=1` is one C x k^2 matrix.

    Raises:
        ValueError: Another number of axes, numbers that are not finite, or groups that do not divide C_out.

    Reference: Li et al., ICLR 2021, arXiv:2103.08756.
    """
    form = residual_form(kernels)
    matrices = as_matrices(form.residuals, check_groups(form.residuals, groups))
    u, singular_values, vh = torch.linalg.svd(matrices, full_matrices=False)
    return SVDForm(mean=form.mean, u=u, singular_values=singular_values, v=vh.mT)


def latent_form(kernels: Tensor, *, groups: int = 1) -> LatentForm:
    """The singular value form of pointwise kernels, to be applied to features.

    Args:
        kernels: (K, C_out, C_in / groups, 1, 1).
        groups: Of the convolution.

    Raises:
        ValueError: As `svd_form`, and for kernels larger than 1x1.
    """
    if kernels.dim() == 5 and tuple(kernels.shape[3:]) != (1, 1):
        raise ValueError(
            f"the latent form runs on 1x1 kernels; these are {kernels.shape[3]}x{kernels.shape[4]}. "
            "Use `svd_form` for the kernel itself."
        )
    return LatentForm(svd=svd_form(kernels, groups=groups))


def _scaled(mean: Tensor, attention: Tensor) -> Tensor:
    """s(x) W_mean for every sample."""
    return attention.sum(1)[:, None, None, None, None] * mean


def _energies(kernels: Tensor, weights: Tensor) -> Tensor:
    """|sum_k w_k W_k|^2 for each sample, float64, (B,): through K x K products, without a kernel for each sample."""
    flat = kernels.flatten(1).double()
    return torch.einsum("bk,kl,bl->b", weights, flat @ flat.T, weights).clamp(min=0)
