"""The mixtures of a network taken apart, layer by layer, and one of them in detail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.analysis.dcd_fit import DCDErrorCurve, dcd_error_curve
from dynaconv.analysis.decomposition import ResidualForm, SVDForm, residual_form, svd_form
from dynaconv.analysis.decomposition_spectrum import (
    ResidualSpectrum,
    directions_for_energy,
    effective_rank,
    residual_spectrum,
)
from dynaconv.analysis.mixtures import as_matrices, matrix_groups
from dynaconv.analysis.statistics import NetworkStatistics
from dynaconv.families import KernelMixture2d
from dynaconv.families.dcd import default_latent_dim

FIT_SAMPLES = 256
"""Samples of attention that a DCD is fitted to."""
FIT_STEPS = 60
"""Steps of each fit; more change the third digit."""
SMALL = 80_000
"""Numbers in a kernel up to which Lambda is fitted as well and the whole spectrum is taken: seconds on one core."""
MEDIUM = 320_000
"""Numbers in a kernel up to which a DCD is fitted without Lambda."""
ENERGY = 0.9


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerDecomposition:
    """A mixture taken apart.

    Attributes:
        name: Dotted path in the model.
        shape: Of the stacked kernels, (K, C_out, C_in / groups, k_h, k_w).
        energy_share: Median over the samples of |sum_k a_k dW_k|^2 / |W(x)|^2.
        outputs: Number of directions that the residuals can write to: M for each group.
        effective_rank: Of the residuals side by side, see `decomposition_spectrum.effective_rank`.
        directions: How many directions have 90 % of the residuals' energy.
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
    def numbers(self) -> int:
        """Numbers in one kernel."""
        return self.shape[1] * self.shape[2] * self.shape[3] * self.shape[4]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        keys = ("name", "energy_share", "outputs", "effective_rank", "directions", "latent_dim")
        return {"shape": list(self.shape), **{key: getattr(self, key) for key in keys}}


@dataclass(frozen=True, kw_only=True, eq=False)
class MixtureDetail:
    """One mixture in detail.

    Attributes:
        layer: Its row in the table of all.
        form: The residual form.
        attention: Of the samples, (B, K).
        spectrum: None for a kernel with more than `SMALL` numbers.
        curves: Errors of the best DCD found; without Lambda only above `SMALL` numbers, none above `MEDIUM`.
    """

    layer: LayerDecomposition
    form: ResidualForm
    attention: Tensor
    spectrum: ResidualSpectrum | None
    curves: tuple[DCDErrorCurve, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
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
    """Take apart every layer with several kernels that attention alone weights (CondConv, DY-Conv).

    Args:
        model: The network.
        statistics: Its statistics, for the attention of the samples.
    """
    found = []
    for entry in statistics.layers:
        layer = model.get_submodule(entry.name)
        if isinstance(layer, KernelMixture2d) and layer.num_kernels > 1 and entry.samples is not None:
            found.append(_decomposition(entry.name, layer, entry.samples))
    return tuple(found)


def _decomposition(name: str, layer: KernelMixture2d, attention: Tensor) -> LayerDecomposition:
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
        directions=directions_for_energy(values, ENERGY),
        latent_dim=default_latent_dim(min(layer.in_channels, layer.out_channels) // groups),
        svd=svd_form(kernels, groups=groups),
    )


def choose_mixture(layers: Sequence[LayerDecomposition], name: str | None = None) -> LayerDecomposition | None:
    """The named layer if it is a mixture; else the one with the largest residual among those small enough to fit."""
    for layer in layers:
        if layer.name == name:
            return layer
    small = [layer for layer in layers if layer.numbers <= SMALL]
    if small:
        return max(small, key=lambda layer: layer.energy_share)
    return min(layers, key=lambda layer: layer.numbers) if layers else None


@torch.no_grad()
def mixture_detail(model: nn.Module, layer: LayerDecomposition, attention: Tensor) -> MixtureDetail:
    """One mixture in detail: residuals, spectrum, and the best DCD by latent size.

    Args:
        model: The network.
        layer: As `decompose` gives it.
        attention: Of the samples, (B, K).
    """
    kernels = model.get_submodule(layer.name).weight.detach().cpu()  # type: ignore[operator]
    groups = layer.svd.groups
    attention = attention[:FIT_SAMPLES]
    small, fits = layer.numbers <= SMALL, layer.numbers <= MEDIUM
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
        if fits
        else (),
    )


def _sizes(layer: LayerDecomposition) -> list[int]:
    """Latent sizes around the paper's L: 0, a quarter, a half, L itself and twice L, as far as they exist."""
    largest = min(layer.svd.u.shape[2], layer.svd.v.shape[2])
    wanted = (0, layer.latent_dim // 4, layer.latent_dim // 2, layer.latent_dim, 2 * layer.latent_dim)
    return sorted({size for size in wanted if size <= largest})
