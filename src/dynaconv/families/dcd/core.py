"""Base classes of DCD: evaluation with given factors, and the trainable factors, branch and norms."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from dynaconv.families.contract.affine import add_bias
from dynaconv.families.contract.base import DynamicLayer
from dynaconv.families.contract.branch import DynamicBranch, context_dtype
from dynaconv.families.contract.checks import check_real
from dynaconv.families.contract.convolution import DynamicConvolution
from dynaconv.families.contract.norms import LatentBatchNorm2d, make_context_norm, normalise, scale_and_shift
from dynaconv.families.contract.operator import DynamicOperator
from dynaconv.families.dcd import DCDFactors, dcd_kernel, factored_dcd, fold_latent_norms, kernel_dcd
from dynaconv.families.dcd.compiled_step import compiled_step_dcd, supports_compiled_step
from dynaconv.families.dcd.config import ALGORITHMS, DCDConfig, DCDSizes, dcd_sizes
from dynaconv.families.dcd.cost import dcd_costs
from dynaconv.families.dcd.factors import activate_scale, required
from dynaconv.ops import Cost, Geometry, cheapest, is_exporting, pool_context

SMALL_STD = 0.01
"""Standard deviation of `gain` times the initial branch weights, if no norm follows in the residual."""


class DCDCoefficients(NamedTuple):
    """Coefficients of a DCD layer. A field is None if the variant does not have it."""

    scale: Tensor | None
    """Diagonal of Lambda(x), ``(B, C_out)``."""
    fusion: Tensor | None
    """Phi(x): ``(B, L, L)``; in the joint form ``(B, L, L, L_k)``, its axes those of Q, P and R; in the depthwise form
    ``(B, L_k, L_k)``. Several blocks form a separate axis after the batch."""
    input_scale: Tensor | None = None
    """Diagonal of S(x), ``(B, C_in)``, of ``variant="input"``."""


class DCDOperator(DynamicOperator):
    """Runs DCD, trainable or deployed, for a given context and given factors of W(x)."""

    branch: Any
    p: nn.Parameter | None
    q: nn.Parameter | None
    r: nn.Parameter | None
    sizes: DCDSizes
    _exported_algorithm: ClassVar[str] = "factored"

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Names of the algorithms: form W(x), or apply its factors to feature maps."""
        return ALGORITHMS[1:]

    @property
    @abstractmethod
    def has_scale(self) -> bool:
        """Whether W(x) has Lambda(x)."""

    @property
    def has_input_scale(self) -> bool:
        """Whether W(x) has S(x)."""
        return "input_scale" in self.branch.heads

    @abstractmethod
    def _coefficients(self, context: Tensor) -> DCDCoefficients:
        """Return the coefficients of a context ``(B, features)``, with Phi in the shape of the algorithms."""

    @abstractmethod
    def _factors(self, context: Tensor, weight: Tensor, *, track: bool) -> tuple[DCDFactors, Tensor | None]:
        """Return the factors of W(x) with fixed latent norms folded in, and each sample's bias, ``(B, C_out)``.

        Args:
            context: ``(B, features)``.
            weight: W0 in the shape of a convolution's weight.
            track: Whether train mode updates running statistics.
        """

    def _drop_single_block_axis(self, coefficients: DCDCoefficients) -> DCDCoefficients:
        fusion = coefficients.fusion
        if fusion is not None and self.sizes.form != "depthwise" and self.sizes.blocks == 1:
            fusion = fusion.squeeze(1)
        return coefficients._replace(fusion=fusion)

    def _kernel_and_bias(self, context: Tensor, weight: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor | None]:
        factors, bias = self._factors(context, weight, track=False)
        return dcd_kernel(factors, geometry, context.shape[0]), bias

    def _apply_dcd(self, x: Tensor, context: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        factors, bias = self._factors(context, weight, track=True)
        out = (kernel_dcd if self._choose(x) == "kernel" else factored_dcd)(x, factors, geometry)
        return add_bias(out, bias)

    def _costs(self, input_shape: tuple[int, ...], geometry: Geometry, out_channels: int) -> dict[str, Cost]:
        form, blocks, latent_dim, latent_taps, _, _ = self.sizes
        latent = (blocks, latent_taps if form == "depthwise" else latent_dim, latent_taps)
        scales = {"scaled": self.has_scale, "input_scaled": self.has_input_scale}
        return dcd_costs(form, geometry, input_shape, out_channels, latent, **scales)


class DCDOnImages(DCDOperator, DynamicConvolution):
    """DCD as a convolution, whose own context is the averaged input."""

    context_size: int
    """The input is averaged over a grid of this many cells along each axis."""

    def _pooled(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return pool_context(x, self.context_size, context_dtype(x.dtype), mask)

    def _mask_refusal(self) -> str | None:
        if self.context_size > 1:
            return f"averages over a grid of context_size={self.context_size} cells, whose borders a mask would move"
        return super()._mask_refusal()

    def coefficients(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> DCDCoefficients:
        """Lambda(x) and Phi(x) of each sample of ``x``, ``(B, C_in, *sizes)``, in float32 (float64 for float64)."""
        context = self._context(x, *self._checked(x, context, mask))
        return self._drop_single_block_axis(self._coefficients(context))

    def kernel(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """W(x) of each sample, ``(B, *weight.shape)``.

        Raises:
            RuntimeError: with ``norm="batch"`` in train mode, because batch statistics define no kernel per sample.
        """
        context = self._context(x, *self._checked(x, context, mask))
        return self.as_torch(self._kernel_and_bias(context, self.conv_weight, self.geometry)[0])

    def sample_bias(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor | None:
        """The bias of each sample, ``(B, C_out)``; with ``norm="batch"`` it includes shifts of the latent norms."""
        context = self._context(x, *self._checked(x, context, mask))
        return self._kernel_and_bias(context, self.conv_weight, self.geometry)[1]

    def _compute(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        context = self._context(x, context, mask)
        return self._apply_dcd(self._padded(x), context, self.conv_weight, self.geometry)

    def _costs_of(self, padded: tuple[int, ...]) -> dict[str, Cost]:
        return self._costs(padded, self.geometry, self.out_channels)


class DCDOnRows(DCDOperator):
    """DCD as a linear map, whose context is the input vector itself, or one that is given for each sample.

    By its own context, each row of ``(..., in_features)`` has its own matrix. By given contexts ``(B, F)``, all rows of
    a sample of ``(B, ..., in_features)`` have one matrix.
    """

    in_features: int
    out_features: int

    def _pooled(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return x.reshape(-1, self.in_features).to(context_dtype(x.dtype))

    def _mask_refusal(self) -> str | None:
        return "averages nothing, because each row is a context of its own"

    def coefficients(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> DCDCoefficients:
        """Lambda(x) and Phi(x) of each row of ``x``, ``(N, in_features)``, or of each given context."""
        context = self._context(x, *self._checked(x, context, mask))
        return self._drop_single_block_axis(self._coefficients(context))

    def kernel(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """W(x) of each row of ``x``, ``(N, out_features, in_features)``, or of each given context.

        Raises:
            RuntimeError: with ``norm="batch"`` in train mode, because batch statistics define no matrix per row.
        """
        context = self._context(x, *self._checked(x, context, mask))
        return self._kernel_and_bias(context, self._weight_4d, _POINT)[0].flatten(2)

    def sample_bias(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor | None:
        """The bias of each row of ``x``, ``(N, out_features)``, or of each given context."""
        context = self._context(x, *self._checked(x, context, mask))
        return self._kernel_and_bias(context, self._weight_4d, _POINT)[1]

    def _compute(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if context is None:
            rows = x.reshape(-1, self.in_features, 1, 1)
        else:
            # The rows of a sample are the pixels of an image.
            rows = x.reshape(x.shape[0], -1, self.in_features).transpose(1, 2)[..., None]
        out = self._apply_dcd(rows, self._context(x, context, mask), self._weight_4d, _POINT)
        return out.flatten(2).transpose(1, 2).reshape(*x.shape[:-1], self.out_features)

    def algorithm_costs(self, input_shape: Sequence[int]) -> dict[str, Cost]:
        """Return each algorithm's cost for an input ``(..., in_features)``, by which ``algorithm="auto"`` chooses."""
        rows = math.prod(input_shape[:-1])
        samples = rows if self.context_features is None else input_shape[0]
        return self._costs((samples, self.in_features, rows // max(samples, 1), 1), _POINT, self.out_features)

    def _choose(self, x: Tensor) -> str:
        if self.algorithm != "auto":
            return str(self.algorithm)
        if is_exporting():
            return self._exported_algorithm
        costs = self._costs(tuple(x.shape), _POINT, self.out_features)
        return cheapest(costs, undecided=self._exported_algorithm)

    @property
    def _weight_4d(self) -> Tensor:
        return self.weight[:, :, None, None]

    def _check_input(self, x: Tensor) -> None:
        check_real(x)
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"DCDLinear was built for in_features={self.in_features}, the last axis; got an input {tuple(x.shape)}."
            )
        if x.dim() == 1 and self.context_features is not None:
            raise ValueError(
                f"DCDLinear with context_features takes (batch, ..., {self.in_features}), because each sample has a "
                f"context; got an input {tuple(x.shape)}."
            )

    def extra_repr(self) -> str:
        """Sizes of the layer."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


_POINT = Geometry((1, 1))


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
    def _branch_parameters(self) -> tuple[Tensor, ...]:
        return self.branch.squeeze.weight, self._head("scale"), self._head("fusion")

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
        lengths = [
            torch.linalg.vector_norm(factor.to(like)) / math.sqrt(count)
            for factor, count in columns
            if factor is not None
        ]
        # If a factor is zero, the product is zero, but the residual is zero too and stays zero.
        product: Tensor = math.prod(lengths[1:], start=lengths[0])
        return product.clamp(min=1e-12).reciprocal()

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

    def _kernel_and_bias(self, context: Tensor, weight: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor | None]:
        if self._normalises_by_batch():
            raise RuntimeError(
                "norm='batch' uses statistics of the whole batch in train mode, so no kernel of one sample exists; "
                "call eval() first, or use norm=None."
            )
        return super()._kernel_and_bias(context, weight, geometry)

    def _apply_dcd(self, x: Tensor, context: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        if not self._normalises_by_batch():
            if self._has_default_branch and self._choose(x) == "factored":
                parameters = (weight, *self._branch_parameters, required(self.p), required(self.q))
                if supports_compiled_step(x, (*parameters, context), geometry):
                    context = normalise(self.context_norm, context, track=True)
                    settings = (self.config.gain, *(self.branch.heads[name].bound for name in ("scale", "fusion")))
                    return add_bias(compiled_step_dcd(x, context, parameters, settings, geometry), self.bias)
            return super()._apply_dcd(x, context, weight, geometry)
        if self.algorithm == "kernel":
            raise RuntimeError(
                "algorithm='kernel' cannot run norm='batch' in train mode, because no kernel of one sample exists; "
                "use algorithm='auto' or 'factored', or call eval()."
            )
        factors, bias = self._factors(context, weight, track=True)
        return add_bias(factored_dcd(x, factors, geometry, (self.norm1, self.norm2)), bias)

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
