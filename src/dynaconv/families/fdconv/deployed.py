"""The deployed form of FDConv."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.families.contract.affine import frozen_parameter, frozen_sum, multiply_rows
from dynaconv.families.contract.branch import context_dtype
from dynaconv.families.contract.deployed import AffineMap, DeployedBranch, DeployedConv
from dynaconv.families.contract.norms import NORM_EPSILON, norm_affine
from dynaconv.families.fdconv.branch import LocalLogits
from dynaconv.families.fdconv.coefficients import FDConvCoefficients
from dynaconv.families.fdconv.core import MAX_KERNELS, FDConvolution, in_layout
from dynaconv.families.fdconv.kernel import group_kernels, transformed_kernel
from dynaconv.families.fdconv.spectrum import spectrum_kernel
from dynaconv.ops.mixture import mix_kernels


def _frozen(module: Any) -> Any:
    return copy.deepcopy(module).requires_grad_(False).eval()


class DeployedFDConv(FDConvolution, DeployedConv):
    """Deployed form of `FDConv2d`. Its branch has a head for each coefficient, which includes the temperature.

    It stores the kernel of each group of frequencies, which the gains mix, if these are at most `MAX_KERNELS` static
    kernels; otherwise the spectra, which take one inverse transform for each sample.

    Args:
        layer: The original layer.
    """

    kernels: nn.Parameter | None
    spectrum: nn.Parameter | None
    scale: nn.Parameter
    """Factor on the filter gates, ``(C_out,)``."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        branch = layer.branch
        squeeze = AffineMap.of(branch.squeeze)
        if not isinstance(branch.norm, nn.Identity):
            squeeze = squeeze.fold_output_affine(*norm_affine(branch.norm))
        star = branch.activation
        slope, shift = (part.detach().cpu().double().expand(len(squeeze.weight)) for part in (star.scale, star.bias))
        heads = {name: AffineMap.of(head, 1 / branch.temperatures[name]) for name, head in branch.heads.items()}
        self.branch = DeployedBranch(
            {name: head.fold_input_affine(slope, shift) for name, head in heads.items()},
            squeeze=squeeze,
            activation="squared_relu",
        )
        norm = layer.context_norm
        self.normalise = isinstance(norm, nn.LayerNorm)
        affine = (None, None) if norm is None or self.normalise else norm_affine(norm)
        for name, part in zip(("context_scale", "context_shift"), affine, strict=True):
            self.branch.register_parameter(name, None if part is None else frozen_parameter(part))
        self.branch.local = None if branch.local is None else _frozen(branch.local)
        self.bands = None if layer.bands is None else _frozen(layer.bands)
        self._gate, self._gate_limit, self._local_gate = layer._gate, layer._gate_limit, layer._local_gate
        self._adopt_settings(layer)

    def _store_kernel(self, layer: Any) -> None:
        self.num_kernels, self._spectra = layer.num_kernels, layer.config.spectra
        with torch.no_grad():
            spectra, stored = layer.spectra(), layer.stored_kernel
            mixes = self._spectra * self.num_kernels <= MAX_KERNELS
            kernels = None
            if mixes:
                kernels = group_kernels(spectra, layer.frequency_group, self.num_kernels, self._shape)
                kernels = in_layout(kernels.to(stored.dtype), stored)
            self._store_frozen("kernels", kernels)
            self._store_frozen("spectrum", None if mixes else in_layout(spectra.to(stored.dtype), stored))
        self.register_buffer("frequency_group", None if mixes else layer.frequency_group.clone())
        self.register_buffer("frequency_order", None if mixes else layer.frequency_order.clone(), persistent=False)
        self._store_frozen("scale", torch.ones(self.out_channels, device=spectra.device, dtype=spectra.dtype))

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The kernel for neutral coefficients, ``(C_out, C_in, k_h, k_w)``."""
        if self.kernels is not None:
            total = in_layout(self.kernels.sum(0), self.kernels)
        else:
            assert self.spectrum is not None
            spectrum = self.spectrum.sum(0).to(context_dtype(self.spectrum.dtype))
            total = in_layout(spectrum_kernel(spectrum, self._shape), self.spectrum)
        return (total * self.scale[:, None, None, None]).to(self.stored_kernel.dtype)

    @property
    def stored_kernel(self) -> nn.Parameter:
        """The kernels of the groups, or the spectra."""
        stored = self.spectrum if self.kernels is None else self.kernels
        assert stored is not None
        return stored

    def _scale_kernel(self, scale: Tensor) -> None:
        self.scale = multiply_rows(self.scale, scale)

    def _add_fixed(self, shift: Tensor) -> None:
        self.bias = frozen_sum(self.bias, shift, self.stored_kernel)

    def _normalised(self, context: Tensor, *, track: bool) -> Tensor:
        if self.normalise:
            return torch.layer_norm(context, context.shape[1:], eps=NORM_EPSILON)
        scale: Any = self.branch.context_scale
        shift: Any = self.branch.context_shift
        return context if scale is None else context * scale.to(context.dtype) + shift.to(context.dtype)

    def _heads_of(self, context: Tensor, *, track: bool) -> dict[str, Tensor]:
        heads: dict[str, Tensor] = self.branch(context)
        return heads

    def _from_logits(self, heads: dict[str, Tensor]) -> FDConvCoefficients:
        coefficients = super()._from_logits(heads)
        return coefficients._replace(filter=coefficients.filter * self.scale.to(coefficients.filter.dtype))

    def _local_logits(self) -> LocalLogits | None:
        local: LocalLogits | None = self.branch.local
        return local

    def _static_part(self, gains: Tensor) -> Tensor:
        if self.kernels is not None:
            wide = self.kernels.to(context_dtype(self.kernels.dtype))
            return mix_kernels(gains, wide)
        assert self.spectrum is not None
        wide = self.spectrum.to(context_dtype(self.spectrum.dtype))
        order: Any = self.frequency_order
        groups: Any = self.frequency_group
        return transformed_kernel(gains.to(wide.dtype), wide, groups, order, self._shape)

    @property
    def assembly(self) -> str:
        """How the static part of each sample's kernel is formed, in words."""
        return "one inverse transform a sample" if self.kernels is None else f"{len(self.kernels)} kernels mixed"
