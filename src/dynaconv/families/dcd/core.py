"""What the DCD convolution and the DCD linear layer have in common: factors, branch, choice of algorithm."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.families.contract.affine import add_bias, add_to, multiply_rows
from dynaconv.families.contract.base import DynamicLayer
from dynaconv.families.contract.branch import BranchLinear, DynamicBranch, context_dtype
from dynaconv.families.contract.norms import LatentBatchNorm2d, make_context_norm, normalise, scale_and_shift
from dynaconv.families.dcd import DCDFactors, dcd_kernel, factored_dcd, fold_latent_norms, kernel_dcd
from dynaconv.families.dcd.config import ALGORITHMS, DCDConfig, DCDSizes, dcd_sizes
from dynaconv.families.dcd.cost import dcd_costs
from dynaconv.ops import Cost, Geometry, choose

SMALL_STD = 0.01
"""Standard deviation of the weights of a fresh branch, gain included, when nothing normalises the residual."""


class DCDCoefficients(NamedTuple):
    """What the dynamic branch of a DCD layer computes. A part is None where the variant lacks it."""

    scale: Tensor | None
    """Diagonal of Lambda(x), ``(B, C_out)``."""
    fusion: Tensor | None
    """Phi(x): ``(B, L, L)``; in the joint form ``(B, L, L, L_k)``, its axes those of Q, P and R; in the depthwise form
    ``(B, L_k, L_k)``. Several blocks stand in an axis of their own after the batch."""


class DCDCore(DynamicLayer):
    """Mixin: builds P, Q, R, the branch and the latent norms beside a static ``weight``, and runs them."""

    shift: nn.Parameter | None
    p: nn.Parameter | None
    q: nn.Parameter | None
    r: nn.Parameter | None
    sizes: DCDSizes
    _config: DCDConfig
    _resolved: DCDConfig
    _exported_algorithm: ClassVar[str] = "factored"

    def _build_dynamic(
        self, config: DCDConfig, in_channels: int, out_channels: int, groups: int, num_taps: int
    ) -> None:
        options: dict[str, Any] = {"device": self.weight.device, "dtype": self.weight.dtype}
        self.sizes = sizes = dcd_sizes(config, in_channels, out_channels, groups, num_taps)
        self.config = config
        self._scales_bias = config.norm == "batch" and config.has_scale
        self.register_parameter("shift", None)
        self.register_parameter("p", None)
        self.register_parameter("q", None)
        self.register_parameter("r", None)
        heads = {}
        if config.has_scale:
            heads["scale"] = out_channels
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
            gain=self.resolved.gain or 1.0,
            std=None if config.norm == "batch" else SMALL_STD,
            device=self.weight.device,
            dtype=self.weight.dtype,
        )

    def _reset_dynamic(self) -> None:
        """Start near the static kernel: a small branch, and P, Q, R with columns of about unit length.

        With such columns a step in Phi moves W(x) by as much as the same step in W0 would. Longer columns of P, as
        unit gain would have them, multiply the residual's learning rate by C_out / L. With latent norms P starts at
        unit gain.
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

        Without norms Phi starts at zero, so P and Q keep their scale and Phi moves first. With norms the skip over Phi
        would remain, so P starts at zero.
        """
        with torch.no_grad():
            if self.config.has_scale:
                self._head("scale").zero_()
            if self.p is not None:
                (self.p if self.config.norm == "batch" else self._head("fusion")).zero_()

    @property
    def is_neutral(self) -> bool:
        """Whether the layer computes what a static one does, whatever its input."""
        if self.shift is not None or "shift" in self.branch.heads:
            return False
        parts = [self._head("scale")] if self.config.has_scale else []
        if self.p is not None:
            parts.append(self.p if self.config.norm == "batch" else self._head("fusion"))
        return not any(part.any() for part in parts)

    def _head(self, name: str) -> Tensor:
        return self._linear(name).weight

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Names of the algorithms: form W(x), or apply its factors to features."""
        return ALGORITHMS[1:]

    @property
    def config(self) -> DCDConfig:
        """The options of the layer, as they were given."""
        return self._config

    @config.setter
    def config(self, value: DCDConfig) -> None:
        self._config, self._resolved = value, value.resolved(self.sizes.context_features)

    @property
    def resolved(self) -> DCDConfig:
        """`config` with what its defaults mean for this layer; see `DCDConfig.resolved`."""
        return self._resolved

    def absorb_affine(self, scale: Tensor, shift: Tensor) -> None:
        """Make the layer compute ``scale * forward(x) + shift``; see `DynamicConv2d.absorb_affine`."""
        self.weight = multiply_rows(self.weight, scale, axis=0)
        if self.p is not None:
            self.p = multiply_rows(self.p, scale, axis=0)
        for name in ("bias", "shift"):
            if getattr(self, name) is not None:
                setattr(self, name, multiply_rows(getattr(self, name), scale))
        if "shift" in self.branch.heads:
            head = self._linear("shift")
            head.weight = multiply_rows(head.weight, scale, axis=0)
            head.bias = multiply_rows(head.bias, scale)
            head.bias = add_to(head.bias, shift, head.weight)
        elif self._scales_bias and self.bias is not None:
            self.shift = add_to(self.shift, shift, self.weight)
        else:
            self.bias = add_to(self.bias, shift, self.weight)

    def fold_constants(self) -> None:
        """Fold the latent norms, as they are in eval mode, into the branch; see `DynamicConv2d.fold_constants`.

        Phi'(x) and the bias of `fold_latent_norms` are affine in the branch's hidden vector: the head of Phi gets other
        weights and a bias, and a head ``shift`` gives the bias of each sample.
        """
        self.branch.to(context_dtype(self.weight.dtype))
        if self.config.norm == "batch" and self.config.has_residual:
            self._fold_latent_norms()
        self.config = dataclasses.replace(self.resolved, norm=None)
        self._fold_context_norm()

    @torch.no_grad()
    def _fold_latent_norms(self) -> None:
        old = self._linear("fusion")
        weight = old.weight
        # Each column of the old weight, and nothing at all, is a Phi; folding is affine in Phi. In float64, because the
        # constant part is subtracted again; on the CPU, because not every device has that type.
        columns = weight.T.cpu().double().reshape(-1, *self.sizes.fusion_shape)
        phis = torch.cat([torch.zeros_like(columns[:1]), columns])
        (scale1, shift1), (scale2, shift2) = (
            [part.cpu() for part in scale_and_shift(norm.cpu(), torch.float64)] for norm in (self.norm1, self.norm2)
        )
        assert self.p is not None
        fusions, shifts = fold_latent_norms(phis, self.p.cpu(), (scale1, shift1), (scale2, shift2))
        for name, values in (("fusion", fusions.flatten(1)), ("shift", shifts)):
            head = BranchLinear(weight.shape[1], values.shape[1], None, weight.device, weight.dtype, bias=True)
            head.weight.copy_((values[1:] - values[0]).T)
            head.bias.copy_(values[0])
            self.branch.heads[name] = head.train(old.training).requires_grad_(weight.requires_grad)
        del self.norm1, self.norm2

    def _linear(self, name: str) -> BranchLinear:
        head = self.branch.heads[name]
        assert isinstance(head, BranchLinear)
        return head

    def _coefficients(self, context: Tensor) -> DCDCoefficients:
        """Coefficients of a context ``(B, features)``, Phi in the shape the algorithms take."""
        return self._activated(self._heads(context, track=False))

    def _heads(self, context: Tensor, *, track: bool) -> dict[str, Tensor]:
        """What the branch gives for a context; ``track`` says whether train mode updates running statistics."""
        heads: dict[str, Tensor] = self.branch(normalise(self.context_norm, context, track=track))
        return heads

    def _activated(self, heads: Mapping[str, Tensor]) -> DCDCoefficients:
        scale, fusion = heads.get("scale"), heads.get("fusion")
        if scale is not None:
            scale = activate_scale(scale, self.resolved.scale_activation)
        if fusion is not None:
            fusion = fusion.reshape(fusion.shape[0], *self.sizes.fusion_shape)
        return DCDCoefficients(scale, fusion)

    def _public(self, coefficients: DCDCoefficients) -> DCDCoefficients:
        fusion = coefficients.fusion
        if fusion is not None and self.sizes.form != "depthwise" and self.sizes.blocks == 1:
            fusion = fusion.squeeze(1)
        return coefficients._replace(fusion=fusion)

    def _normalises_by_batch(self) -> bool:
        """Whether a latent norm would use statistics of the batch, so that no kernel of one sample exists."""
        return self.config.norm == "batch" and self.config.has_residual and (self.norm1.training or self.norm2.training)

    def _factors(self, context: Tensor, weight: Tensor, *, track: bool) -> tuple[DCDFactors, Tensor | None]:
        """The factors of W(x), fixed latent norms folded in, and the bias of each sample, ``(B, C_out)``."""
        heads = self._heads(context, track=track)
        scale, fusion = self._activated(heads)
        bias: Tensor | None = self.bias
        if bias is not None and scale is not None and self._scales_bias:
            bias = bias.to(scale.dtype) * scale
        for fixed in (self.shift, heads.get("shift")):
            if fixed is not None:
                bias = fixed if bias is None else bias + fixed
        if fusion is not None and self.config.norm == "batch" and not self._normalises_by_batch():
            assert self.p is not None
            norms = (scale_and_shift(self.norm1, fusion.dtype), scale_and_shift(self.norm2, fusion.dtype))
            fusion, latent_bias = fold_latent_norms(fusion, self.p, *norms)
            bias = latent_bias if bias is None else bias + latent_bias
        if bias is not None:
            bias = bias.expand(context.shape[0], -1)
        return DCDFactors(self.sizes.form, weight, scale, fusion, self.p, self.q, self.r), bias

    def _kernel_and_bias(self, context: Tensor, weight: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor | None]:
        if self._normalises_by_batch():
            raise RuntimeError(
                "norm='batch' uses statistics of the whole batch in train mode, so no kernel of one sample exists; "
                "call eval() first, or use norm=None."
            )
        factors, bias = self._factors(context, weight, track=False)
        return dcd_kernel(factors, geometry, context.shape[0]), bias

    def _apply_dcd(self, x: Tensor, context: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        factors, bias = self._factors(context, weight, track=True)
        if self._normalises_by_batch():
            if self.algorithm == "kernel":
                raise RuntimeError(
                    "algorithm='kernel' cannot run norm='batch' in train mode, where no kernel of one sample exists; "
                    "use algorithm='auto' or 'factored', or call eval()."
                )
            out = factored_dcd(x, factors, geometry, (self.norm1, self.norm2))
        else:
            shape = x.shape[0], x.shape[1], x.shape[2], x.shape[3]
            chosen = choose(self.algorithm, lambda: self._costs(shape, geometry), exported=self._exported_algorithm)
            out = (kernel_dcd if chosen == "kernel" else factored_dcd)(x, factors, geometry)
        return add_bias(out, bias)

    def _costs(self, input_shape: tuple[int, int, int, int], geometry: Geometry) -> dict[str, Cost]:
        form, blocks, latent_dim, latent_taps, _, _ = self.sizes
        latent = (blocks, latent_taps if form == "depthwise" else latent_dim, latent_taps)
        channels = self.weight.shape[0]
        return dcd_costs(form, geometry, input_shape, channels, latent, scaled=self.config.has_scale)

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


def activate_scale(logits: Tensor, activation: str) -> Tensor:
    """Lambda from its logits; 1 at logit 0 for every activation."""
    if activation == "linear":
        return 1 + logits
    if activation == "hard_sigmoid":
        return F.relu6(logits + 3) / 3
    return 2 * torch.sigmoid(logits) if activation == "sigmoid" else 1 + torch.tanh(logits)
