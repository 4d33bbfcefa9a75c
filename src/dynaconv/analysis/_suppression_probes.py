"""How the columns of one layer's factors are scaled and what gradient reaches them, batch by batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.analysis.decomposition import SVDForm, svd_form
from dynaconv.analysis.mixtures import as_matrices, matrix_groups
from dynaconv.families import KernelMixture2d
from dynaconv.families.dcd.core import DCDCore

RANK = 1e-6
"""A singular value below this share of the largest is rounding of float32, its direction arbitrary."""


class MixtureProbe:
    """U and V of a mixture of kernels.

    The factors are no parameters of the layer. With H_k = sum_b a_k(x_b) G_b, the gradient that the kernel W_k gets,
    the chain rule gives dL/dU_k = H_k V_k S_k and dL/dV_k = H_k^T U_k S_k.
    """

    def __init__(self, layer: KernelMixture2d, form: SVDForm | None = None) -> None:
        weight = layer.weight
        self.leaves: list[nn.Parameter] = [weight]
        self.form = form if form is not None else svd_form(weight.detach(), groups=matrix_groups(layer))
        self.samples = self.batches = 0
        self._attention = torch.zeros(len(weight), dtype=torch.float64)
        self._kernels = torch.zeros(len(weight), dtype=torch.float64)
        self._sides = [torch.zeros(self.form.singular_values.shape, dtype=torch.float64) for _ in range(2)]

    def see(self, coefficients: Any) -> None:
        """Take in the coefficients of a batch."""
        attention = coefficients.attention.detach()
        self._attention += attention.abs().double().sum(0).cpu()
        self.samples += len(attention)

    def absorb(self, gradients: list[Tensor]) -> None:
        """Take in the gradient of a batch's loss with respect to the leaves."""
        form = self.form
        kernels = as_matrices(gradients[0], form.groups).to(form.u)
        scale = form.singular_values.double().cpu()
        self._sides[0] += (kernels @ form.v).norm(dim=2).double().cpu() * scale
        self._sides[1] += (kernels.mT @ form.u).norm(dim=2).double().cpu() * scale
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

    def sides(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For U and for V: coefficients, own coefficients and gradient norms of the columns, (D,) each."""
        values = self.form.singular_values.double().cpu()
        kept = values > RANK * values.max()
        coefficients = (self.attention[:, None, None] * values)[kept]
        return [(coefficients, coefficients, (side / self.batches)[kept]) for side in self._sides]

    def column_attention(self) -> Tensor:
        """Mean of |a_k| for each column, (D,)."""
        values = self.form.singular_values.double().cpu()
        return self.attention[:, None, None].expand_as(values)[values > RANK * values.max()]


class DCDProbe:
    """P and Q of a DCD layer (in the depthwise form P and R), brought to columns of unit length."""

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

    def see(self, coefficients: Any) -> None:
        """Take in the coefficients of a batch."""
        phi = self._unit_columns(coefficients.fusion.detach().double().cpu())
        self._rows += phi.square().sum((3, 4)).sqrt().sum(0)
        self._columns += phi.square().sum((2, 4)).sqrt().sum(0)
        self._diagonal += phi.diagonal(dim1=2, dim2=3).norm(dim=2).sum(0)
        self.samples += len(phi)

    def absorb(self, gradients: list[Tensor]) -> None:
        """Take in the gradient of a batch's loss with respect to the leaves."""
        for total, length, gradient in zip(self._gradients, self._lengths, gradients, strict=True):
            total += length * self._column_norms(gradient)
        self.batches += 1

    def sides(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For P and for Q: coefficients, own coefficients and gradient norms of the columns, (D,) each."""
        own = self._diagonal.flatten() / self.samples
        joined = (self._rows, self._columns)
        return [
            (size.flatten() / self.samples, own, gradient.flatten() / self.batches)
            for size, gradient in zip(joined, self._gradients, strict=True)
        ]

    def _unit_columns(self, fusion: Tensor) -> Tensor:
        """Phi for unit columns of P, Q and R, (B, blocks, L of P, L of Q, L_k of R, else 1)."""
        phi = fusion.reshape(len(fusion), self.blocks, *fusion.shape[-3 if self.form == "joint" else -2 :])
        phi = phi.transpose(2, 3) if self.form == "joint" else phi.unsqueeze(-1)
        p, q = self._lengths
        sized: Tensor = phi * p[:, :, None, None] * q[:, None, :, None] * self._tap_lengths
        return sized

    def _column_norms(self, matrix: Tensor) -> Tensor:
        """Lengths of the columns within each block, (blocks, L), float64."""
        lengths: Tensor = matrix.double().reshape(self.blocks, -1, matrix.shape[1]).norm(dim=1)
        return lengths.cpu()


Probe = MixtureProbe | DCDProbe


def probe_for(layer: nn.Module, form: SVDForm | None = None) -> Probe | str:
    """A probe for the layer, or why there is none."""
    if isinstance(layer, KernelMixture2d):
        return MixtureProbe(layer, form) if layer.num_kernels > 1 else "it has a single kernel"
    if not isinstance(layer, DCDCore):
        return "it is neither a mixture of kernels nor DCD"
    if layer.p is None:
        return "it has no residual P Phi Q^T"
    if layer.config.norm == "batch":
        return "its latent batch norms add a skip over Phi"
    return DCDProbe(layer)
