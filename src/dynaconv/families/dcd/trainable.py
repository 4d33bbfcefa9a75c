"""The trainable part of DCD: factors, branch and latent norms."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.families.contract.affine import add_bias
from dynaconv.families.contract.branch import DynamicBranch
from dynaconv.families.contract.layer import DynamicLayer
from dynaconv.families.contract.norms import LatentBatchNorm2d, make_context_norm, normalise, scale_and_shift
from dynaconv.families.dcd import DCDFactors, factored_dcd, fold_latent_norms
from dynaconv.families.dcd.compiled_step import (
    StepSettings,
    averaging_norm,
    compiled_step_dcd,
    supports_compiled_step,
)
from dynaconv.families.dcd.config import DCDConfig, dcd_sizes
from dynaconv.families.dcd.core import DCDCoefficients, DCDOperator
from dynaconv.families.dcd.factored_step import fits_beside
from dynaconv.families.dcd.factors import activate_scale, inverse_lengths, required
from dynaconv.ops import Geometry
from dynaconv.ops.eager import compiled_is_enabled

_POINT = Geometry((1, 1))
SMALL_STD = 0.01
"""Standard deviation of `gain` times the initial branch weights, if no norm follows in the residual."""


class DCDCore(DCDOperator, DynamicLayer):
    """Mixin that adds P, Q, R, the branch and the latent norms to a static ``weight``."""

    _config: DCDConfig
    _resolved: DCDConfig

    def _build_dynamic(
        self, config: DCDConfig, in_channels: int, out_channels: int, groups: int, num_taps: int, dims: int = 2
    ) -> None:
        options: dict[str, Any] = {"device": self.weight.device, "dtype": self.weight.dtype}
        self.sizes = sizes = dcd_sizes(config, in_channels, out_channels, groups, num_taps, dims)
        self.config = config
        self.scales_bias = config.norm == "batch" and config.has_scale
        self._has_latent_norms = config.norm == "batch" and config.has_residual
        self.register_parameter("p", None)
        self.register_parameter("q", None)
        self.register_parameter("r", None)
        heads = {}
        if config.has_scale:
            heads["scale"] = out_channels
        if config.has_input_scale:
            heads["input_scale"] = in_channels
        if config.has_residual:
            heads["fusion"] = math.prod(sizes.fusion_shape)
            latent = sizes.latent_taps if sizes.form == "depthwise" else sizes.latent_dim
            self.p = nn.Parameter(torch.empty(out_channels, latent, **options))
            if sizes.form != "depthwise":
                self.q = nn.Parameter(torch.empty(in_channels, latent, **options))
            if sizes.form != "channel":
                self.r = nn.Parameter(torch.empty(num_taps, sizes.latent_taps, **options))
            if config.norm == "batch":
                self.norm1 = LatentBatchNorm2d(sizes.blocks * latent, **options)
                self.norm2 = LatentBatchNorm2d(sizes.blocks * latent, **options)
        self.context_norm = make_context_norm(self.resolved.context_norm, sizes.context_features, **options)
        self.branch = DynamicBranch(
            sizes.context_features,
            sizes.hidden_channels,
            heads,
            activation=self.resolved.activation,
            unit_hidden=self.resolved.hidden_norm == "unit",
            keeps_length=config.keeps_length(sizes.context_features),
            gain=config.gain,
            std=None if config.norm == "batch" else SMALL_STD,
            bounds={"scale": 1.0, "input_scale": 1.0, "fusion": max(sizes.latent_dim, sizes.latent_taps, 1) ** -0.5}
            if self.resolved.weight_norm
            else None,
            device=self.weight.device,
            dtype=self.weight.dtype,
        )

    def _reset_dynamic(self) -> None:
        """Initialise near the static kernel: a small branch, and P, Q, R with columns of about unit length.

        With such columns a step in Phi changes W(x) by as much as the same step in W0. Unit gain would make the columns
        of P longer and multiply the residual's learning rate by C_out / L. With latent norms, P has unit gain.
        """
        self._reset_branch()
        if self.p is None:
            return
        fan = self.p.shape[1] if self.config.norm == "batch" else self.p.shape[0] // self.sizes.blocks
        nn.init.normal_(self.p, std=fan**-0.5)
        if self.q is not None:
            nn.init.normal_(self.q, std=(self.q.shape[0] // self.sizes.blocks) ** -0.5)
        if self.r is not None:
            nn.init.normal_(self.r, std=self.r.shape[0] ** -0.5)
        if self.config.norm == "batch":
            self.norm1.reset_parameters()
            self.norm2.reset_parameters()

    def _neutralise(self) -> None:
        """Make the layer compute its static kernel exactly: Lambda = 1 and no residual.

        Without latent norms, Phi is set to zero, so that P and Q keep their scale and Phi changes first. With latent
        norms the skip connection would remain, so P is set to zero.
        """
        with torch.no_grad():
            for name in ("scale", "input_scale"):
                if name in self.branch.heads:
                    self._head(name).zero_()
            if self.p is not None:
                (self.p if self.config.norm == "batch" else self._head("fusion")).zero_()

    @property
    def is_neutral(self) -> bool:
        """Whether Lambda or S is 1 and the residual is zero for every input, so that the layer is a static one."""
        parts = [self._head(name) for name in ("scale", "input_scale") if name in self.branch.heads]
        if self.p is not None:
            parts.append(self.p if self.config.norm == "batch" else self._head("fusion"))
        return not any(part.any() for part in parts)

    def _head(self, name: str) -> Tensor:
        weight: Tensor = self.branch.heads[name].weight
        return weight

    @property
    def has_scale(self) -> bool:
        """Whether W(x) has Lambda(x)."""
        return self.config.has_scale

    @property
    def _has_default_branch(self) -> bool:
        """Whether the compiled operators compute this branch and residual."""
        options = self.resolved
        return (
            self.config.norm is None
            and self.sizes.form == "channel"
            and self.sizes.blocks == 1
            and set(self.branch.heads) == {"scale", "fusion"}
            and (options.activation, options.hidden_norm, options.scale_activation) == ("relu", "unit", "sigmoid")
            and bool(options.weight_norm)
            and not self.branch.keeps_length
        )

    @property
    def config(self) -> DCDConfig:
        """The options of the layer, as they were passed."""
        return self._config

    @config.setter
    def config(self, value: DCDConfig) -> None:
        self._config, self._resolved = value, value.resolved

    @property
    def resolved(self) -> DCDConfig:
        """`config` with its defaults replaced by their values; see `DCDConfig.resolved`."""
        return self._resolved

    def _coefficients(self, context: Tensor) -> DCDCoefficients:
        """Return the coefficients of a context ``(B, features)``, with Phi in the shape of the algorithms."""
        return self._activated(self._heads(context, track=False))

    def _heads(self, context: Tensor, *, track: bool) -> dict[str, Tensor]:
        """Return the outputs of the branch for a context; with ``track``, train mode updates running statistics."""
        heads: dict[str, Tensor] = self.branch(normalise(self.context_norm, context, track=track))
        return heads

    def _activated(self, heads: Mapping[str, Tensor]) -> DCDCoefficients:
        scale, fusion, input_scale = heads.get("scale"), heads.get("fusion"), heads.get("input_scale")
        if scale is not None:
            scale = activate_scale(scale, self.resolved.scale_activation)
        if input_scale is not None:
            input_scale = activate_scale(input_scale, self.resolved.scale_activation)
        if fusion is not None:
            fusion = fusion.reshape(fusion.shape[0], *self.sizes.fusion_shape)
            if self.resolved.weight_norm:
                fusion = fusion * self.inverse_lengths(fusion)
        return DCDCoefficients(scale, fusion, input_scale)

    def inverse_lengths(self, like: Tensor) -> Tensor:
        """Return 1 / the product of the root-mean-square lengths of P's, Q's and R's columns.

        Each block has columns of its own. Computed in the dtype and on the device of ``like``.
        """
        form, blocks, latent_dim, latent_taps, _, _ = self.sizes
        latent = latent_taps if form == "depthwise" else blocks * latent_dim
        columns = ((self.p, latent), (self.q, latent), (self.r, latent_taps))
        return inverse_lengths([(factor.to(like), count) for factor, count in columns if factor is not None])

    def _normalises_by_batch(self) -> bool:
        """Whether a latent norm uses batch statistics, so that no kernel of a single sample exists."""
        return self._has_latent_norms and (self.norm1.training or self.norm2.training)

    def _factors(self, context: Tensor, weight: Tensor, *, track: bool) -> tuple[DCDFactors, Tensor | None]:
        heads = self._heads(context, track=track)
        scale, fusion, input_scale = self._activated(heads)
        bias: Tensor | None = self.bias
        if bias is not None and scale is not None and self.scales_bias:
            bias = bias.to(scale.dtype) * scale
        if fusion is not None and self._has_latent_norms and not self._normalises_by_batch():
            assert self.p is not None
            norms = (scale_and_shift(self.norm1, fusion.dtype), scale_and_shift(self.norm2, fusion.dtype))
            fusion, latent_bias = fold_latent_norms(fusion, self.p, *norms)
            bias = latent_bias if bias is None else bias + latent_bias
        if bias is not None:
            bias = bias.expand(context.shape[0], -1)
        return DCDFactors(self.sizes.form, weight, scale, fusion, self.p, self.q, self.r, input_scale), bias

    def _kernel_and_bias(self, context: Tensor) -> tuple[Tensor, Tensor | None]:
        if self._normalises_by_batch():
            raise RuntimeError(
                "norm='batch' uses statistics of the whole batch in train mode, so no kernel of one sample exists; "
                "call eval() first, or use norm=None."
            )
        return super()._kernel_and_bias(context)

    def _apply_dcd(self, x: Tensor, context: Tensor) -> Tensor:
        if not self._normalises_by_batch():
            out = self._compiled(x, context)
            return super()._apply_dcd(x, context) if out is None else out
        if self.algorithm == "kernel":
            raise RuntimeError(
                "algorithm='kernel' cannot run norm='batch' in train mode, because no kernel of one sample exists; "
                "use algorithm='auto' or 'factored', or call eval()."
            )
        weight, geometry = self._as_conv
        factors, bias = self._factors(context, weight, track=True)
        return add_bias(factored_dcd(x, factors, geometry, (self.norm1, self.norm2)), bias)

    def _compiled(self, x: Tensor, context: Tensor | None) -> Tensor | None:
        """Return the output by compiled operators; None if they do not serve this input.

        Args:
            x: Padded input, ``(B, C_in, *sizes)``.
            context: ``(B, features)``, not normalised; None: the average of ``x``.
        """
        if not (compiled_is_enabled() and self._has_default_branch):
            return None
        weight, geometry = self._as_conv
        branch = (self.branch.squeeze.weight, self._head("scale"), self._head("fusion"))
        parameters = (weight, *branch, required(self.p), required(self.q))
        if not supports_compiled_step(x, parameters if context is None else (*parameters, context), geometry):
            return None
        forms_kernel = self._choose(x) == "kernel"
        if forms_kernel and geometry != _POINT:
            return None
        norm = averaging_norm(self.context_norm, len(x)) if context is None else None
        if context is not None:
            context = normalise(self.context_norm, context, track=True)
        elif norm is None:
            return None
        numbers = (self.config.gain, *(self.branch.heads[name].bound for name in ("scale", "fusion")))
        joined = not forms_kernel and fits_beside(*required(self.p).shape)
        settings = StepSettings(geometry, numbers, norm, forms_kernel, joined)
        return add_bias(compiled_step_dcd(x, context, parameters, settings), self.bias)

    def _dcd_repr(self) -> str:
        form, blocks, latent_dim, latent_taps, hidden, _ = self.sizes
        parts = [f"variant={self.config.variant!r}"]
        if self.config.has_residual:
            parts.append(f"fusion={form!r}")
            parts += [f"latent_dim={latent_dim}"] if form != "depthwise" else []
            parts += [f"latent_taps={latent_taps}"] if form != "channel" else []
            parts += [f"blocks={blocks}"] if blocks > 1 else []
        parts.append(f"hidden_channels={hidden}")
        parts += [f"norm={self.config.norm!r}"] if self.config.norm else []
        return ", ".join(parts)
