"""The computation of DCD layers, trainable or deployed, for a given context and given factors of W(x)."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from dynaconv.families.contract.affine import add_bias
from dynaconv.families.contract.branch import context_dtype
from dynaconv.families.contract.checks import check_real
from dynaconv.families.contract.convolution import DynamicConvolution
from dynaconv.families.contract.linear import DynamicMap, rows_of
from dynaconv.families.contract.operator import DynamicOperator
from dynaconv.families.dcd import DCDFactors, dcd_kernel, factored_dcd, kernel_dcd
from dynaconv.families.dcd.config import ALGORITHMS, DCDSizes
from dynaconv.families.dcd.cost import dcd_costs
from dynaconv.ops import Cost, Geometry, cheapest, is_exporting, pool_context

_POINT = Geometry((1, 1))


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

    @property
    @abstractmethod
    def _as_conv(self) -> tuple[Tensor, Geometry]:
        """W0 in the shape of a convolution's weight, and the geometry of that convolution."""

    @abstractmethod
    def _as_own(self, kernel: Tensor) -> Tensor:
        """Return the kernels of that convolution in the layout of ``weight``."""

    def coefficients(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> DCDCoefficients:
        """Lambda(x) and Phi(x) of each kernel that `kernel` returns, in float32 (float64 for float64)."""
        coefficients = self._coefficients(self._context(x, *self._checked(x, context, mask)))
        fusion = coefficients.fusion
        if fusion is not None and self.sizes.form != "depthwise" and self.sizes.blocks == 1:
            fusion = fusion.squeeze(1)
        return coefficients._replace(fusion=fusion)

    def kernel(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """W(x) of each sample, ``(B, *weight.shape)``, or of each row of ``x`` if rows have matrices of their own.

        Raises:
            RuntimeError: with ``norm="batch"`` in train mode, because batch statistics define no kernel per sample.
        """
        return self._as_own(self._kernel_and_bias(self._context(x, *self._checked(x, context, mask)))[0])

    def sample_bias(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor | None:
        """The bias of each sample or row, ``(B, C_out)``; with ``norm="batch"`` it includes shifts of latent norms."""
        return self._kernel_and_bias(self._context(x, *self._checked(x, context, mask)))[1]

    def _kernel_and_bias(self, context: Tensor) -> tuple[Tensor, Tensor | None]:
        weight, geometry = self._as_conv
        factors, bias = self._factors(context, weight, track=False)
        return dcd_kernel(factors, geometry, context.shape[0]), bias

    def _apply_dcd(self, x: Tensor, context: Tensor) -> Tensor:
        weight, geometry = self._as_conv
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

    @property
    def _as_conv(self) -> tuple[Tensor, Geometry]:
        return self.conv_weight, self.geometry

    def _as_own(self, kernel: Tensor) -> Tensor:
        return self.as_torch(kernel)

    def _compute(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return self._apply_dcd(self._padded(x), self._context(x, context, mask))

    def _costs_of(self, padded: tuple[int, ...]) -> dict[str, Cost]:
        return self._costs(padded, self.geometry, self.out_channels)


class DCDOnRows(DCDOperator, DynamicMap):
    """DCD as a linear map.

    The context is that of a `DynamicMap` if `average_rows`, or is given for each sample; then all rows of a sample of
    ``(B, ..., in_features)`` have one matrix. Else each row of ``(..., in_features)`` is its own context and has its
    own matrix.
    """

    average_rows: bool
    """Whether the context is the mean over the rows of a sample."""

    @property
    def _per_sample(self) -> bool:
        """Whether all rows of a sample have one matrix."""
        return self.average_rows or self.context_features is not None

    def _pooled(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.average_rows:
            return super()._pooled(x, mask)
        return x.reshape(-1, self.in_features).to(context_dtype(x.dtype))

    def _mask_refusal(self) -> str | None:
        if self.average_rows:
            return super()._mask_refusal()
        return "averages nothing, because each row is a context of its own"

    @property
    def _as_conv(self) -> tuple[Tensor, Geometry]:
        return self.weight[:, :, None, None], _POINT

    def _as_own(self, kernel: Tensor) -> Tensor:
        return kernel.flatten(2)

    def _compute(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        # The rows of a sample are the pixels of an image.
        rows = rows_of(x) if self._per_sample else x.reshape(-1, 1, self.in_features)
        rows = rows.transpose(1, 2)[..., None]
        out = self._apply_dcd(rows, self._context(x, context, mask))
        return out.flatten(2).transpose(1, 2).reshape(*x.shape[:-1], self.out_features)

    def algorithm_costs(self, input_shape: Sequence[int]) -> dict[str, Cost]:
        """Return each algorithm's cost for an input ``(..., in_features)``, by which ``algorithm="auto"`` chooses."""
        rows = math.prod(input_shape[:-1])
        samples = input_shape[0] if self._per_sample else rows
        return self._costs((samples, self.in_features, rows // max(samples, 1), 1), _POINT, self.out_features)

    def _choose(self, x: Tensor) -> str:
        if self.algorithm != "auto":
            return str(self.algorithm)
        if is_exporting():
            return self._exported_algorithm
        costs = self._costs(tuple(x.shape), _POINT, self.out_features)
        return cheapest(costs, undecided=self._exported_algorithm)

    def _check_input(self, x: Tensor) -> None:
        check_real(x)
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"DCDLinear was built for in_features={self.in_features}, the last axis; got an input {tuple(x.shape)}."
            )
        if x.dim() == 1 and self._per_sample:
            option = "average_rows" if self.average_rows else "context_features"
            raise ValueError(
                f"DCDLinear with {option} takes (batch, ..., {self.in_features}), because each sample has a "
                f"context; got an input {tuple(x.shape)}."
            )
