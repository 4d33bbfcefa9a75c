"""Decompositions of a network's mixtures, layer by layer, and one of them in detail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.explain.dcd_fit import DCDErrorCurve, dcd_error_curve
from dynaconv.explain.decomposition import ResidualForm, SVDForm, residual_form, svd_form
from dynaconv.explain.decomposition_spectrum import (
    ResidualSpectrum,
    directions_for_energy,
    effective_rank,
    residual_spectrum,
)
from dynaconv.explain.mixtures import as_matrices, matrix_groups
from dynaconv.explain.statistics import NetworkStatistics
from dynaconv.families import KernelMixture
from dynaconv.families.dcd import default_latent_dim

FIT_SAMPLES = 256
"""Number of samples of attention for the DCD fit."""
FIT_STEPS = 60
"""Maximum number of steps of each fit; more steps change the third digit."""
MAX_NUMEL_WITH_SCALE = 80_000
"""Kernel size up to which Lambda is fitted as well and the full spectrum is computed: seconds on one core."""
MAX_NUMEL_FIT = 320_000
"""Kernel size up to which a DCD is fitted without Lambda."""
ENERGY_SHARE = 0.9
"""Share of the residuals' energy that `LayerDecomposition.directions` have."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerDecomposition:
    """Decomposition of the mixture of one layer.

    Attributes:
        name: Dotted path in the model.
        shape: Shape of the stacked kernels, (K, C_out, C_in / groups, k_h, k_w).
        energy_share: Median over the samples of |sum_k a_k dW_k|^2 / |W(x)|^2.
        outputs: Number of output directions, M for each group.
        effective_rank: `decomposition_spectrum.effective_rank` of the residuals side by side.
        directions: Number of directions with 90 % of the residuals' energy.
        latent_dim: The paper's L for a layer of this size.
        svd: The singular value form.
    """

    name: str
    shape: tuple[int, ...]
    energy_share: float
    outputs: int
    effective_rank: float
    directions: int
    latent_dim: int
    svd: SVDForm

    @property
    def numel(self) -> int:
        """Number of elements of one kernel."""
        return self.shape[1] * self.shape[2] * self.shape[3] * self.shape[4]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        keys = ("name", "energy_share", "outputs", "effective_rank", "directions", "latent_dim")
        return {"shape": list(self.shape), **{key: getattr(self, key) for key in keys}}


@dataclass(frozen=True, kw_only=True, eq=False)
class MixtureDetail:
    """One mixture in detail.

    Attributes:
        layer: Decomposition of the layer.
        form: Residual form of its kernels.
        attention: Attention of the samples, (B, K).
        spectrum: Spectrum of the residuals; None for kernels larger than `MAX_NUMEL_WITH_SCALE`.
        curves: Errors of the best DCD fits found, with and without Lambda; only without Lambda for kernels larger than
            `MAX_NUMEL_WITH_SCALE`, empty for kernels larger than `MAX_NUMEL_FIT`.
    """

    layer: LayerDecomposition
    form: ResidualForm
    attention: Tensor
    spectrum: ResidualSpectrum | None
    curves: tuple[DCDErrorCurve, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "layer": self.layer.name,
            "cosines": self.form.cosine_similarity().tolist(),
            "singular_values": None if self.spectrum is None else self.spectrum.outputs.tolist(),
            "dcd_errors": [
                {
                    "lambda": curve.scale,
                    "latent_dims": list(curve.latent_dims),
                    "errors": list(curve.errors),
                    "residual_errors": list(curve.residual_errors),
                    "static_error": curve.static_error,
                }
                for curve in self.curves
            ],
        }


@torch.no_grad()
def decompose(model: nn.Module, statistics: NetworkStatistics) -> tuple[LayerDecomposition, ...]:
    """Decompose every layer that mixes several kernels by attention only (CondConv, DY-Conv).

    Args:
        model: The network.
        statistics: Statistics of the network with the attention of the samples.
    """
    decompositions = []
    for entry in statistics.layers:
        layer = model.get_submodule(entry.name)
        if not isinstance(layer, KernelMixture) or layer.residual:
            continue
        if layer.num_kernels > 1 and entry.samples is not None:
            decompositions.append(_decomposition(entry.name, layer, entry.samples))
    return tuple(decompositions)


def _decomposition(name: str, layer: KernelMixture, attention: Tensor) -> LayerDecomposition:
    kernels = layer.weight.detach().cpu()
    groups = matrix_groups(layer)
    form = residual_form(kernels)
    residuals = as_matrices(form.residuals, groups).double()
    # Singular values of the residuals side by side, through the small Gram matrix of each group.
    gram = torch.einsum("kgmn,kgpn->gmp", residuals, residuals)
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flatten()
    return LayerDecomposition(
        name=name,
        shape=tuple(kernels.shape),
        energy_share=float(form.energy_share(attention).median()),
        outputs=len(values),
        effective_rank=effective_rank(values),
        directions=directions_for_energy(values, ENERGY_SHARE),
        latent_dim=default_latent_dim(min(layer.in_channels, layer.out_channels) // groups),
        svd=svd_form(kernels, groups=groups),
    )


def choose_mixture(layers: Sequence[LayerDecomposition], name: str | None = None) -> LayerDecomposition | None:
    """Return the named layer if it is a mixture, else a default.

    The default is the layer with the largest residual among kernels of at most `MAX_NUMEL_WITH_SCALE` elements, or the
    layer with the smallest kernel if all are larger. Returns None if `layers` is empty.
    """
    for layer in layers:
        if layer.name == name:
            return layer
    small = [layer for layer in layers if layer.numel <= MAX_NUMEL_WITH_SCALE]
    if small:
        return max(small, key=lambda layer: layer.energy_share)
    return min(layers, key=lambda layer: layer.numel) if layers else None


@torch.no_grad()
def mixture_detail(model: nn.Module, layer: LayerDecomposition, attention: Tensor) -> MixtureDetail:
    """Return the details of one mixture: residuals, spectrum, and errors of the best DCD fits by latent size.

    Args:
        model: The network.
        layer: Result of `decompose`.
        attention: Attention of the samples, (B, K).
    """
    kernels = model.get_submodule(layer.name).weight.detach().cpu()  # type: ignore[operator]
    groups = layer.svd.groups
    attention = attention[:FIT_SAMPLES]
    small, fitted = layer.numel <= MAX_NUMEL_WITH_SCALE, layer.numel <= MAX_NUMEL_FIT
    sizes = _sizes(layer)
    scales = (True, False) if small else (False,)
    return MixtureDetail(
        layer=layer,
        form=residual_form(kernels),
        attention=attention,
        spectrum=residual_spectrum(kernels, groups=groups) if small else None,
        curves=tuple(
            dcd_error_curve(kernels, attention, sizes, scale=scale, groups=groups, max_steps=FIT_STEPS)
            for scale in scales
        )
        if fitted
        else (),
    )


def _sizes(layer: LayerDecomposition) -> list[int]:
    """Return the latent sizes 0, L / 4, L / 2, L and 2 L for the paper's L, up to the largest possible size."""
    largest = min(layer.svd.u.shape[2], layer.svd.v.shape[2])
    sizes = (0, layer.latent_dim // 4, layer.latent_dim // 2, layer.latent_dim, 2 * layer.latent_dim)
    return sorted({size for size in sizes if size <= largest})
