"""The deployed form of DCD, whose heads are affine maps of the branch's hidden vector."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from dynaconv.families.contract.affine import frozen_sum, multiply_rows
from dynaconv.families.contract.branch import context_dtype
from dynaconv.families.contract.deployed import AffineMap, DeployedBranch, DeployedConv, DeployedLayer
from dynaconv.families.contract.norms import norm_affine
from dynaconv.families.dcd import DCDFactors, fold_latent_norms
from dynaconv.families.dcd.core import DCDCoefficients, DCDOnImages, DCDOnRows, DCDOperator
from dynaconv.families.dcd.factors import activate_scale
from dynaconv.families.dcd.prepared import PreparedDCD, can_prepare, heads_cost, prepared_cost
from dynaconv.families.dcd.trainable import DCDCore
from dynaconv.ops import Cost
from dynaconv.ops.precision import autocasts


class DeployedDCD(DCDOperator, DeployedLayer):
    """Mixin that stores the tensors of deployed DCD, for images or rows.

    The kernel is W(x) = Lambda(x) W0 + P Phi(x) Q^T and the bias ``Lambda(x) scaled_bias + shift(x) + bias``; a layer
    may lack some of the terms. Latent norms are folded into Phi and the bias.

    Attributes:
        branch: Its heads are ``scale`` or ``input_scale`` (the input of `scale_activation`), ``fusion`` (Phi) and
            ``shift``.
        scale_activation: ``affine`` if the head gives Lambda itself; else as the option of `DCDConv2d`.
        bias: Constant part of the bias, ``(C_out,)``; included in ``shift`` if that head exists.
        scaled_bias: Part of the bias that Lambda multiplies, ``(C_out,)``; included in ``shift`` if Lambda is affine.
    """

    scaled_bias: nn.Parameter | None
    scale_activation: str

    @torch.no_grad()
    def _take_over(self, layer: DCDCore) -> None:
        self.sizes = layer.sizes
        for name in ("p", "q", "r"):
            self._store_frozen(name, getattr(layer, name))
        self.branch = branch = DeployedBranch.of(layer.branch, layer.context_norm)
        if layer.resolved.weight_norm and layer.p is not None:
            fusion = branch.head("fusion")
            lengths = layer.inverse_lengths(fusion.weight)
            branch.heads["fusion"] = AffineMap(fusion.weight * lengths, fusion.constant * lengths)
        bias, scaled_bias, shift = layer.bias, None, None
        if layer.scales_bias:
            bias, scaled_bias = scaled_bias, bias
        if layer.config.norm == "batch" and layer.p is not None:
            branch.heads["fusion"], shift = self._folded(layer, branch.head("fusion"))
        self.scale_activation = layer.resolved.scale_activation
        if self.scale_activation == "linear":
            for name in branch.heads.keys() & {"scale", "input_scale"}:
                head = branch.head(name)
                branch.heads[name] = AffineMap(head.weight, head.constant + 1)
                self.scale_activation = "affine"
            if scaled_bias is not None:
                scale = branch.head("scale")
                gain = scaled_bias.cpu().double()
                part = scale.fold_output_affine(gain, torch.zeros_like(gain))
                shift = part if shift is None else AffineMap(shift.weight + part.weight, shift.constant + part.constant)
                scaled_bias = None
        if shift is not None:
            if bias is not None:
                shift, bias = AffineMap(shift.weight, shift.constant + bias.cpu().double()), None
            branch.heads["shift"] = shift
        self._store_frozen("bias", bias)
        self._store_frozen("scaled_bias", scaled_bias)
        self._adopt_settings(layer)

    def _folded(self, layer: DCDCore, head: AffineMap) -> tuple[AffineMap, AffineMap]:
        """Return the heads of Phi and of the bias with the latent norms of eval mode folded in."""
        # Folding is affine in Phi, so it is applied to Phi = 0 and to each column of the map as a Phi.
        columns = head.weight.T.reshape(-1, *self.sizes.fusion_shape)
        phis = torch.cat([torch.zeros_like(columns[:1]), columns])
        assert layer.p is not None
        fusions, shifts = fold_latent_norms(
            phis, layer.p.detach().cpu(), norm_affine(layer.norm1), norm_affine(layer.norm2)
        )
        fusion, shift = (AffineMap((part[1:] - part[0]).T, part[0]) for part in (fusions.flatten(1), shifts))
        return fusion, shift

    @property
    def has_scale(self) -> bool:
        """Whether W(x) has Lambda(x)."""
        return "scale" in self.branch.heads

    def absorb_affine(self, scale: Tensor, shift: Tensor) -> None:
        """Make the layer compute ``scale * forward(x) + shift``; see `DeployedLayer.absorb_affine`."""
        self.weight = multiply_rows(self.weight, scale, axis=0)
        for name, axis in (("p", 0), ("bias", -1), ("scaled_bias", -1)):
            tensor = getattr(self, name)
            if tensor is not None:
                setattr(self, name, multiply_rows(tensor, scale, axis=axis))
        if "shift" in self.branch.heads:
            self.branch.heads["shift"] = self.branch.head("shift").fold_output_affine(scale, shift)
        else:
            self.bias = frozen_sum(self.bias, shift, self.weight)

    def _coefficients(self, context: Tensor) -> DCDCoefficients:
        return self._activated(self.branch(context))

    def _activated(self, heads: dict[str, Tensor]) -> DCDCoefficients:
        scale, fusion, input_scale = heads.get("scale"), heads.get("fusion"), heads.get("input_scale")
        if scale is not None and self.scale_activation != "affine":
            scale = activate_scale(scale, self.scale_activation)
        if input_scale is not None and self.scale_activation != "affine":
            input_scale = activate_scale(input_scale, self.scale_activation)
        if fusion is not None:
            fusion = fusion.reshape(fusion.shape[0], *self.sizes.fusion_shape)
        return DCDCoefficients(scale, fusion, input_scale)

    def _factors(self, context: Tensor, weight: Tensor, *, track: bool) -> tuple[DCDFactors, Tensor | None]:
        heads = self.branch(context)
        scale, fusion, input_scale = self._activated(heads)
        bias: Tensor | None = heads.get("shift")
        if bias is None and self.bias is not None:
            bias = self.bias.to(context.dtype).expand(context.shape[0], -1)
        if self.scaled_bias is not None and scale is not None:
            scaled = self.scaled_bias.to(scale.dtype) * scale
            bias = scaled if bias is None else bias + scaled
        return DCDFactors(self.sizes.form, weight, scale, fusion, self.p, self.q, self.r, input_scale), bias


class DeployedDCDConv(DeployedDCD, DCDOnImages, DeployedConv):
    """Deployed form of a DCD convolution.

    Args:
        layer: The original layer.
    """

    prepared: PreparedDCD | None
    """Module that runs as the algorithm ``prepared``; None if another algorithm is set."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.context_size = layer.context_size
        self.prepared = None
        self._take_over(layer)
        untyped: Any = super()
        untyped.register_load_state_dict_post_hook(_prepare_after_load)

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Those of the layer and, for a 1x1 convolution, ``prepared``, which uses precomputed constants."""
        return (*super().algorithms, "prepared") if can_prepare(self) else super().algorithms

    @property
    def algorithm(self) -> str:
        """Algorithm in eager PyTorch, ``auto`` or one of `algorithms`; ``auto`` does not choose ``prepared``."""
        return self._algorithm

    @algorithm.setter
    def algorithm(self, value: str) -> None:
        DeployedLayer.algorithm.fset(self, value)  # type: ignore[attr-defined]
        self._prepare()

    def use_prepared(self, prepared: PreparedDCD) -> None:
        """Run this module, made of this layer, as the algorithm ``prepared``."""
        self._algorithm, self.prepared = "prepared", prepared

    def _prepare(self) -> None:
        self.prepared = PreparedDCD(self) if self.algorithm == "prepared" and not self.weight.is_meta else None

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._prepare()
        return self

    def absorb_affine(self, scale: Tensor, shift: Tensor) -> None:
        """Make the layer compute ``scale * forward(x) + shift``; see `DeployedLayer.absorb_affine`."""
        super().absorb_affine(scale, shift)
        self._prepare()

    def algorithm_costs(self, input_shape: tuple[int, ...]) -> dict[str, Cost]:
        """Return each algorithm's cost for an input ``(B, C_in, *sizes)``."""
        costs = super().algorithm_costs(input_shape)
        if not can_prepare(self):
            return costs
        heads = heads_cost(self, input_shape[0])
        return {name: cost + heads for name, cost in costs.items()} | {"prepared": prepared_cost(self, input_shape)}

    def _compute(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        prepared = self.prepared
        # With half-precision features the branch computes in float32, which `prepared` does not support.
        whole = x.dtype == self.weight.dtype == context_dtype(x.dtype)
        if prepared is None or not whole or autocasts(x.device):
            return super()._compute(x, context, mask)
        out: Tensor = prepared(x, context, mask)
        return out


def _prepare_after_load(module: nn.Module, incompatible_keys: Any) -> None:
    assert isinstance(module, DeployedDCDConv)
    module._prepare()


class DeployedDCDLinear(DeployedDCD, DCDOnRows):
    """Deployed form of `dynaconv.DCDLinear`.

    Args:
        layer: The original layer.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.average_rows = layer.average_rows
        self._store_frozen("weight", layer.weight)
        self._take_over(layer)
