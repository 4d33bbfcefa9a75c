"""Probes that accumulate, batch by batch, the coefficient and the gradient of each column of a layer's factors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.explain.decomposition import SVDForm, svd_form
from dynaconv.explain.mixtures import as_matrices, matrix_groups
from dynaconv.families import KernelMixture
from dynaconv.families.dcd.trainable import DCDCore

RANK_TOLERANCE = 1e-6
"""A singular value below this share of the largest is float32 rounding error; its singular vectors are arbitrary."""


class MixtureProbe:
    """Probe for the columns of U and V of a mixture of kernels.

    U and V are not parameters of the layer; their gradients follow from those of the kernels. With
    H_k = sum_b a_k(x_b) G_b, the gradient of the kernel W_k, the chain rule gives dL/dU_k = H_k V_k S_k and
    dL/dV_k = H_k^T U_k S_k.
    """

    def __init__(self, layer: KernelMixture, form: SVDForm | None = None) -> None:
        weight = layer.weight
        self.leaves: list[nn.Parameter] = [weight]
        self.form = form if form is not None else svd_form(weight.detach(), groups=matrix_groups(layer))
        self.samples = self.batches = 0
        self._attention = torch.zeros(len(weight), dtype=torch.float64)
        self._kernels = torch.zeros(len(weight), dtype=torch.float64)
        self._column_gradients = [torch.zeros(self.form.singular_values.shape, dtype=torch.float64) for _ in range(2)]

    def add_coefficients(self, coefficients: Any) -> None:
        """Add the coefficients of a batch."""
        attention = coefficients.attention.detach()
        self._attention += attention.abs().double().sum(0).cpu()
        self.samples += len(attention)

    def add_gradients(self, gradients: list[Tensor]) -> None:
        """Add the gradients of a batch's loss with respect to the leaves."""
        form = self.form
        kernels = as_matrices(gradients[0], form.groups).to(form.u)
        scale = form.singular_values.double().cpu()
        self._column_gradients[0] += (kernels @ form.v).norm(dim=2).double().cpu() * scale
        self._column_gradients[1] += (kernels.mT @ form.u).norm(dim=2).double().cpu() * scale
        self._kernels += gradients[0].flatten(1).norm(dim=1).double().cpu()
        self.batches += 1

    @property
    def attention(self) -> Tensor:
        """Mean of |a_k|, (K,)."""
        return self._attention / self.samples

    @property
    def kernel_gradients(self) -> Tensor:
        """Mean norm of dL/dW_k, (K,)."""
        return self._kernels / self.batches

    def factor_statistics(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return coefficients, own coefficients and gradient norms of the columns, (D,) each, for U and for V."""
        values = self.form.singular_values.double().cpu()
        nonzero = values > RANK_TOLERANCE * values.max()
        coefficients = (self.attention[:, None, None] * values)[nonzero]
        return [
            (coefficients, coefficients, (gradients / self.batches)[nonzero]) for gradients in self._column_gradients
        ]

    def column_attention(self) -> Tensor:
        """Return the mean of |a_k| for each column, (D,)."""
        values = self.form.singular_values.double().cpu()
        return self.attention[:, None, None].expand_as(values)[values > RANK_TOLERANCE * values.max()]


class DCDProbe:
    """Probe for the columns of P and Q of a DCD layer (P and R in the depthwise form), scaled to unit length."""

    def __init__(self, layer: DCDCore) -> None:
        self.form = layer.sizes.form
        self.blocks = 1 if self.form == "depthwise" else layer.sizes.blocks
        other = layer.r if self.form == "depthwise" else layer.q
        assert layer.p is not None
        assert other is not None
        self.leaves: list[nn.Parameter] = [layer.p, other]
        taps = layer.r.detach().double().cpu() if self.form == "joint" and layer.r is not None else torch.ones(1, 1)
        self._tap_lengths = taps.norm(dim=0)
        self._lengths = [self._column_norms(leaf.detach()) for leaf in self.leaves]
        self._gradients = [torch.zeros_like(length) for length in self._lengths]
        self._rows, self._columns, self._diagonal = (torch.zeros_like(self._lengths[0]) for _ in range(3))
        self.samples = self.batches = 0

    def add_coefficients(self, coefficients: Any) -> None:
        """Add the coefficients of a batch."""
        phi = self._unit_columns(coefficients.fusion.detach().double().cpu())
        self._rows += phi.square().sum((3, 4)).sqrt().sum(0)
        self._columns += phi.square().sum((2, 4)).sqrt().sum(0)
        self._diagonal += phi.diagonal(dim1=2, dim2=3).norm(dim=2).sum(0)
        self.samples += len(phi)

    def add_gradients(self, gradients: list[Tensor]) -> None:
        """Add the gradients of a batch's loss with respect to the leaves."""
        for total, length, gradient in zip(self._gradients, self._lengths, gradients, strict=True):
            total += length * self._column_norms(gradient)
        self.batches += 1

    def factor_statistics(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return coefficients, own coefficients and gradient norms of the columns, (D,) each, for P and for Q."""
        own = self._diagonal.flatten() / self.samples
        norms = (self._rows, self._columns)
        return [
            (norm.flatten() / self.samples, own, gradient.flatten() / self.batches)
            for norm, gradient in zip(norms, self._gradients, strict=True)
        ]

    def _unit_columns(self, fusion: Tensor) -> Tensor:
        """Return Phi for unit columns of P, Q and R, (B, blocks, L of P, L of Q, L_k); L_k = 1 unless joint."""
        phi = fusion.reshape(len(fusion), self.blocks, *fusion.shape[-3 if self.form == "joint" else -2 :])
        phi = phi.transpose(2, 3) if self.form == "joint" else phi.unsqueeze(-1)
        p, q = self._lengths
        scaled: Tensor = phi * p[:, :, None, None] * q[:, None, :, None] * self._tap_lengths
        return scaled

    def _column_norms(self, matrix: Tensor) -> Tensor:
        """Return the lengths of the columns in each block, (blocks, L), float64."""
        lengths: Tensor = matrix.double().reshape(self.blocks, -1, matrix.shape[1]).norm(dim=1)
        return lengths.cpu()


Probe = MixtureProbe | DCDProbe


def probe_for(layer: nn.Module, form: SVDForm | None = None) -> Probe | str:
    """Return a probe for the layer, or the reason why there is none."""
    if isinstance(layer, KernelMixture):
        if layer.residual:
            return "its kernels are added to a static one"
        if layer.context_axis is not None:
            return "its kernels differ along context_axis"
        return MixtureProbe(layer, form) if layer.num_kernels > 1 else "it has a single kernel"
    if not isinstance(layer, DCDCore):
        return "it is neither a mixture of kernels nor DCD"
    if layer.p is None:
        return "it has no residual P Phi Q^T"
    if layer.config.norm == "batch":
        return "its latent batch norms add a skip over Phi"
    return DCDProbe(layer)
