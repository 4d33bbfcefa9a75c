"""Decompositions of a mixture of kernels: mean kernel plus residual, and attention over K * C latent channels.

They follow the paper's argument in three steps. `residual_form` writes W(x) = sum_k a_k(x) W_k as the mean kernel plus
a residual. `svd_form` takes the singular value decomposition of each kernel's residual, which turns the residual into
attention over groups of latent channels. `latent_form` evaluates this product from right to left on features. All
forms compute the same W(x).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dynaconv.errors import counted
from dynaconv.explain.mixtures import as_matrices, check_attention, check_groups, check_kernels, mix, relative_error


@dataclass(frozen=True, kw_only=True, eq=False)
class ResidualForm:
    """W(x) = s(x) W_mean + sum_k a_k(x) dW_k, with s(x) = sum_k a_k(x) and dW_k = W_k - W_mean.

    For a softmax, s(x) = 1 and this is the paper's form. For sigmoids, s(x) also scales the mean kernel.

    Attributes:
        mean: Mean kernel W_mean, (C_out, C_in / groups, k_h, k_w).
        residuals: dW_k, (K, C_out, C_in / groups, k_h, k_w); their sum over k is zero.
    """

    mean: Tensor
    residuals: Tensor

    def reconstruct(self, attention: Tensor) -> Tensor:
        """Return W(x), (B, C_out, C_in / groups, k_h, k_w), for attention (B, K)."""
        attention = check_attention(attention, self.residuals)
        return _scaled(self.mean, attention) + mix(self.residuals, attention)

    def energy_share(self, attention: Tensor) -> Tensor:
        """Return |sum_k a_k dW_k|^2 / |W(x)|^2 for each sample, (B,); 0 if W(x) is zero.

        The two parts are not orthogonal, so the share can exceed 1 if they cancel.
        """
        weights = check_attention(attention, self.residuals).double()
        residual = _energies(self.residuals, weights)
        total = _energies(self.mean + self.residuals, weights)
        return torch.where(total > 0, residual / total, torch.zeros_like(total))

    def cosine_similarity(self) -> Tensor:
        """Return the cosine between the residuals of every two kernels, (K, K); 0 for a residual that is zero.

        The K residuals sum to zero, so otherwise unrelated residuals have cosines around -1 / (K - 1).
        """
        directions = F.normalize(self.residuals.flatten(1), dim=1)
        return directions @ directions.T

    def error(self, attention: Tensor) -> float:
        """Return the relative error of `reconstruct` against the mixture itself, which is only rounding error."""
        return relative_error(self.reconstruct(attention), mix(self.mean + self.residuals, attention))


@dataclass(frozen=True, kw_only=True, eq=False)
class SVDForm:
    """W(x) = s(x) W_mean + U Pi(x) S V^T, with dW_k = U_k S_k V_k^T and Pi(x) = blockdiag(a_k(x) I).

    A 1x1 kernel is a C_out x C_in matrix, and a larger kernel a C_out x (C_in k_h k_w) matrix. A grouped kernel has one
    M x N matrix per group, with M = C_out / groups and N = C_in / groups * k_h * k_w. R = min(M, N).

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
        """Number of kernels, K."""
        return self.u.shape[0]

    @property
    def groups(self) -> int:
        """Number of matrices per kernel."""
        return self.u.shape[1]

    @property
    def latent_dim(self) -> int:
        """Number of latent channels of one group, K * R: K * C for a square 1x1 kernel."""
        return self.num_kernels * self.u.shape[3]

    def reconstruct(self, attention: Tensor) -> Tensor:
        """Return W(x), (B, C_out, C_in / groups, k_h, k_w), for attention (B, K)."""
        attention = check_attention(attention, self.u)
        weights = attention[:, :, None, None] * self.singular_values  # the diagonal of Pi S, (B, K, groups, R)
        residual = torch.einsum("kgmr,bkgr,kgnr->bgmn", self.u, weights, self.v)
        return _scaled(self.mean, attention) + residual.reshape(-1, *self.mean.shape)

    def error(self, kernels: Tensor, attention: Tensor) -> float:
        """Return the relative error of `reconstruct` against the mixture of `kernels`, which is only rounding error."""
        return relative_error(self.reconstruct(attention), mix(kernels, attention))


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentForm:
    """y = s(x) W_mean x + U Pi(x) S V^T x by 1x1 convolutions.

    V^T maps each pixel to K groups of R latent channels, K * R in total (K * C for a square kernel). Attention scales
    each group as a whole, and U maps the result to C_out channels. The latent space is K times wider than the features,
    but attention controls it with only K numbers. This is the limitation that the paper addresses.

    Attributes:
        svd: The factors of pointwise kernels.
    """

    svd: SVDForm

    def features(self, x: Tensor) -> Tensor:
        """Map x, (B, C_in, H, W), to S V^T x, (B, groups, K * R, H, W). The channels of kernel k start at k * R."""
        v = self.svd.v
        if x.dim() != 4 or x.shape[1] != self.svd.groups * v.shape[2]:
            raise ValueError(
                f"the input must be (B, C_in, H, W) with C_in={self.svd.groups * v.shape[2]}; got {tuple(x.shape)}."
            )
        weighted = v * self.svd.singular_values[:, :, None, :]
        filters = weighted.permute(1, 0, 3, 2).reshape(-1, v.shape[2], 1, 1)  # (groups * K * R, N, 1, 1)
        latent = F.conv2d(x.to(v), filters, groups=self.svd.groups)
        return latent.reshape(x.shape[0], self.svd.groups, self.svd.latent_dim, *x.shape[2:])

    def attend(self, features: Tensor, attention: Tensor) -> Tensor:
        """Apply Pi(x): multiply the latent channels of kernel k by a_k(x). The shape does not change."""
        attention = check_attention(attention, self.svd.u)
        per_channel = attention.repeat_interleave(self.svd.latent_dim // self.svd.num_kernels, dim=1)
        return features * per_channel[:, None, :, None, None]

    def apply(self, x: Tensor, attention: Tensor) -> Tensor:
        """Convolve x (B, C_in, H, W) with attention (B, K) to (B, C_out, H, W), without forming a kernel.

        Raises:
            ValueError: x has other channels, attention has another number of kernels, or the batch sizes differ.
        """
        attention = check_attention(attention, self.svd.u)
        if len(attention) != len(x):
            raise ValueError(
                f"attention has {counted(len(attention), 'sample')}, but the input has {len(x)}; pass equal batches."
            )
        latent = self.attend(self.features(x), attention).flatten(1, 2)
        u = self.svd.u
        expand = u.permute(1, 2, 0, 3).reshape(-1, self.svd.latent_dim, 1, 1)  # (C_out, K * R, 1, 1)
        static = F.conv2d(x.to(u), self.svd.mean, groups=self.svd.groups)
        return static * attention.sum(1)[:, None, None, None] + F.conv2d(latent, expand, groups=self.svd.groups)


def residual_form(kernels: Tensor) -> ResidualForm:
    """Return the mean kernel and the difference of each kernel from it.

    Args:
        kernels: (K, C_out, C_in / groups, k_h, k_w), float16 to float64; half precision is converted to float32.

    Raises:
        ValueError: The kernels do not have 5 axes or are not finite.

    Reference: Li et al., ICLR 2021, arXiv:2103.08756.
    """
    kernels = check_kernels(kernels)
    mean = kernels.mean(0)
    residuals = kernels - mean
    # Equal kernels differ from their mean only by rounding error of arbitrary direction; set it to zero.
    rounding = 4 * torch.finfo(kernels.dtype).eps * mean.norm()
    is_rounding = torch.linalg.vector_norm(residuals, dim=(1, 2, 3, 4), keepdim=True) <= rounding
    return ResidualForm(mean=mean, residuals=residuals.masked_fill(is_rounding, 0))


def svd_form(kernels: Tensor, *, groups: int = 1) -> SVDForm:
    """Return the singular value decomposition of each kernel's residual.

    Args:
        kernels: (K, C_out, C_in / groups, k_h, k_w).
        groups: Groups of the convolution. A depthwise kernel with `groups=1` is one C x k^2 matrix.

    Raises:
        ValueError: The kernels do not have 5 axes or are not finite, or `groups` does not divide C_out.

    Reference: Li et al., ICLR 2021, arXiv:2103.08756.
    """
    form = residual_form(kernels)
    matrices = as_matrices(form.residuals, check_groups(form.residuals, groups))
    u, singular_values, vh = torch.linalg.svd(matrices, full_matrices=False)
    return SVDForm(mean=form.mean, u=u, singular_values=singular_values, v=vh.mT)


def latent_form(kernels: Tensor, *, groups: int = 1) -> LatentForm:
    """Return the singular value form of pointwise kernels, for use on features.

    Args:
        kernels: (K, C_out, C_in / groups, 1, 1).
        groups: Groups of the convolution.

    Raises:
        ValueError: As for `svd_form`, or the kernels are larger than 1x1.
    """
    kernels = check_kernels(kernels)
    if tuple(kernels.shape[3:]) != (1, 1):
        raise ValueError(
            f"the latent form needs 1x1 kernels; got {kernels.shape[3]}x{kernels.shape[4]}. "
            "Use `svd_form` for larger kernels."
        )
    return LatentForm(svd=svd_form(kernels, groups=groups))


def _scaled(mean: Tensor, attention: Tensor) -> Tensor:
    """Return s(x) W_mean for every sample."""
    return attention.sum(1)[:, None, None, None, None] * mean


def _energies(kernels: Tensor, weights: Tensor) -> Tensor:
    """Return |sum_k w_k W_k|^2 per sample, float64, (B,), from K x K products without forming the samples' kernels."""
    flat = kernels.flatten(1).double()
    return torch.einsum("bk,kl,bl->b", weights, flat @ flat.T, weights).clamp(min=0)
