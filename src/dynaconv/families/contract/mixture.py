"""Base classes of CondConv and DY-Conv: K kernels and biases, summed with weights that depend on the input."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dynaconv.families.contract.affine import add_bias
from dynaconv.families.contract.base import DynamicConv, DynamicConv2d
from dynaconv.families.contract.branch import context_dtype
from dynaconv.families.contract.checks import check_choice
from dynaconv.families.contract.config import ContextConfig
from dynaconv.families.contract.convolution import DynamicConvolution
from dynaconv.families.contract.deployed import AffineMap, DeployedBranch, DeployedConv, MixedKernel
from dynaconv.families.contract.norms import make_context_norm, normalise
from dynaconv.families.contract.options import option
from dynaconv.ops import Cost, full_precision, pool_other_axes
from dynaconv.ops.mixture import (
    Attentions,
    along_axis,
    compiled_mixture,
    grouped_mixture,
    kernel_mixture,
    mix_kernels,
    mixed_mixture,
    mixture_costs,
    supports_compiled,
)

MIXTURE_ALGORITHMS = ("auto", "kernel", "mixed", "grouped")


@dataclass(frozen=True, kw_only=True)
class MixtureConfig(ContextConfig):
    """The options that CondConv and DY-Conv share."""

    _algorithms = MIXTURE_ALGORITHMS

    residual: bool = option(
        False,
        "Add the kernels to a static one, W(x) = W0 + sum_k a_k(x) dW_k, and the biases likewise; ``weight`` and "
        "``bias`` then hold 1 + K of them, W0 first.",
    )
    context_axis: int | None = option(
        None,
        "Axis along which kernels differ: -1, the last one, such as time, or -2, such as frequency. The input is "
        "averaged over the other axes, and the outputs of the K kernels are mixed at each position. None: no axis.",
    )
    algorithm: str = option(
        "auto",
        "``kernel`` forms W(x) and applies it by matrix products, ``mixed`` mixes the outputs of all kernels, "
        "``grouped`` forms W(x) and convolves with the batch folded into groups, ``auto`` uses the cost model.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("residual", self.residual, (False, True))
        check_choice("context_axis", self.context_axis, (None, -1, -2))
        if self.context_axis is None:
            return
        if self.context_features is not None:
            raise ValueError(
                f"context_axis={self.context_axis} keeps an axis of the layer's own input, which a context from "
                f"elsewhere does not have; leave context_axis out, or context_features and context='block'."
            )
        if self.algorithm not in ("auto", "mixed"):
            raise ValueError(
                f"kernels that differ along context_axis={self.context_axis} are applied by mixing outputs; got "
                f"algorithm={self.algorithm!r}. Use 'mixed' or 'auto'."
            )


class MixtureCoefficients(NamedTuple):
    """Coefficients of a kernel mixture."""

    attention: Tensor
    """Weight of each kernel, ``(B, K)``, in float32 (float64 for float64 inputs); ``(B, S, K)`` with `context_axis`."""


class _Mixture(DynamicConvolution):
    """Runs W(x) = sum_k a_k(x) W_k, with the bias mixed in the same way, for given weights a_k(x).

    A residual mixture, W(x) = W0 + sum_k a_k(x) dW_k, is run as a mixture of 1 + K kernels in which W0 has weight 1.
    """

    num_kernels: int
    residual: bool
    context_axis: int | None = None
    """Axis of the output along which kernels differ, -1 or -2; None: a sample has one kernel."""
    _functions: ClassVar = {"kernel": kernel_mixture, "mixed": mixed_mixture, "grouped": grouped_mixture}

    @abstractmethod
    def _logits_of(self, context: Tensor, *, track: bool) -> Tensor:
        """Return the logits ``(N, K)`` of contexts ``(N, F)``; with ``track``, train mode updates statistics."""

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Names of the algorithms that can evaluate this layer; with `context_axis`, ``mixed`` alone."""
        return tuple(self._functions) if self.context_axis is None else ("mixed",)

    def _length_after(self, size: int) -> int:
        """Return the length of the output along `context_axis` for an input of this length."""
        assert self.context_axis is not None
        geometry, pads = self._geometry_and_pads
        axis = self.dims + self.context_axis
        first = 2 * (self.dims - 1 - axis)
        return geometry.output_size(*[size + (0 if pads is None else sum(pads[first : first + 2]))] * self.dims)[axis]

    def _mask_refusal(self) -> str | None:
        # A length for which no other geometry gives the same.
        if self.context_axis is not None and self._length_after(10**6) != 10**6:
            return "resizes its context along context_axis, padding included"
        return super()._mask_refusal()

    def _pooled(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.context_axis is None:
            return super()._pooled(x, mask)
        length = self._length_after(x.shape[self.context_axis])
        return pool_other_axes(x, self.context_axis, length, context_dtype(x.dtype), mask)

    def _checked_logits(self, x: Tensor, context: Tensor | None, mask: Tensor | None, *, track: bool) -> Tensor:
        """Return the logits, ``(B, K)`` or ``(B, S, K)``, of checked arguments."""
        read = self._context(x, context, mask)
        if self.context_axis is None:
            return self._logits_of(read, track=track)
        return self._logits_of(read.flatten(0, 1), track=track).reshape(*read.shape[:2], self.num_kernels)

    @abstractmethod
    def _attention(self, logits: Tensor) -> Tensor:
        """Convert logits to weights of the kernels, ``(B, K)``."""

    def stacked_weights(self, attention: Tensor) -> Tensor:
        """Return the weight of each kernel in `weight`, ``(B, K)``, or ``(B, 1 + K)`` in a residual mixture."""
        return F.pad(attention, (1, 0), value=1.0) if self.residual else attention

    def logits(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the logits of the attention, ``(B, K)``, for ``x``, ``(B, C_in, *sizes)``."""
        return self._checked_logits(x, *self._checked(x, context, mask), track=False)

    def coefficients(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> MixtureCoefficients:
        """The weight of each kernel for each sample of ``x``, ``(B, C_in, *sizes)``."""
        return MixtureCoefficients(self._attention(self.logits(x, context, mask)))

    def kernel(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """W(x) of each sample, ``(B, *weight.shape)`` of the static convolution.

        With `context_axis`, that of each position of the output along the axis, ``(B, S, *weight.shape)``.
        """
        weights = self.stacked_weights(self.coefficients(x, context, mask).attention)
        kernels = self.as_torch(mix_kernels(weights.flatten(0, -2), self.conv_weight))
        return kernels if self.context_axis is None else kernels.reshape(*weights.shape[:2], *kernels.shape[1:])

    def sample_bias(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor | None:
        """The mixed bias of each sample, ``(B, C_out)``, or None; ``(B, S, C_out)`` with `context_axis`."""
        attention = self.coefficients(x, context, mask).attention
        bias = self._mixed_bias(attention)
        return None if bias is None else bias.expand(*attention.shape[:-1], -1)

    def _compute(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if self.context_axis is None:
            (x, context), mask = self._averaged(x, context, mask), None
        attention = self._attention(self._checked_logits(x, context, mask, track=True))
        padded = self._padded(x)
        if self.context_axis is not None:
            return self._mixed_along(self.context_axis, padded, attention)
        weights = self.stacked_weights(attention)
        if self.algorithm == "auto" and supports_compiled(padded, (weights,), self.conv_weight, self.geometry):
            out = compiled_mixture(padded, Attentions(weights), self.conv_weight, self.geometry)
        else:
            out = self._function(padded)(padded, weights, self.conv_weight, self.geometry)
        return add_bias(out, self._mixed_bias(attention))

    def _mixed_along(self, axis: int, padded: Tensor, attention: Tensor) -> Tensor:
        """Return the output for weights that differ along an axis, ``(B, S, K)``."""
        weights, bias = self.stacked_weights(attention), self._mixed_bias(attention)
        out = mixed_mixture(padded, weights, self.conv_weight, self.geometry, axis)
        if bias is None or bias.dim() == 1:
            return add_bias(out, bias)
        return out + along_axis(bias.to(out.dtype), axis, self.dims)

    def _mixed_bias(self, attention: Tensor) -> Tensor | None:
        """Return the bias for each weighting, ``(..., C_out)``, or one for all samples, ``(C_out,)``."""
        if self.bias is None:
            return None
        weights = self.stacked_weights(attention)
        return mix_kernels(weights.flatten(0, -2), self.bias).reshape(*weights.shape[:-1], self.out_channels)

    def _costs_of(self, padded: tuple[int, ...]) -> dict[str, Cost]:
        costs = mixture_costs(self.geometry, padded, self.out_channels, self.num_kernels + self.residual)
        return {name: costs[name] for name in self.algorithms}

    def extra_repr(self) -> str:
        """The convolution's arguments and the number of kernels."""
        residual = ", residual=True" if self.residual else ""
        return f"{super().extra_repr()}, num_kernels={self.num_kernels}{residual}"


class KernelMixture(_Mixture, DynamicConv):
    """A convolution with W(x) = sum_k a_k(x) W_k and a bias mixed in the same way; the family defines a_k(x).

    ``weight`` holds the K kernels, ``(K, C_out, C_in / groups, *k)`` or, transposed, ``(K, C_in, C_out / groups, *k)``,
    and ``bias`` the biases, ``(K, C_out)``.
    `from_conv` and a static state dict set the mean of the kernels and keep their differences, because equal kernels
    would always get equal gradients. With ``residual=True`` they set W0, and the mean of the dW_k to zero.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            As for torch's convolutions.

    Raises:
        ValueError: an argument is out of range or does not match the others.
    """

    branch: Any

    def _leading_shapes(self, config: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        stacked = (self._kernel_count(config) + config.residual,)
        return stacked, stacked

    @staticmethod
    @abstractmethod
    def _kernel_count(config: Any) -> int:
        """Return K."""

    def _build(self, config: Any, device: torch.device, dtype: torch.dtype) -> None:
        self.num_kernels, self.residual = self._kernel_count(config), config.residual
        self.context_axis = config.context_axis
        if self.context_axis == -2 and self.dims == 1:
            raise ValueError(f"context_axis=-2 needs two axes; {type(self).__name__} has one. Use context_axis=-1.")
        self.context_norm = make_context_norm(config.context_norm, self._branch_features, device, dtype)

    def _static_value(self, name: str) -> Tensor:
        if not self.residual:
            return super()._static_value(name)
        own: Tensor = getattr(self, name)
        return own[0] + own[1:].mean(0) * self.neutral_gain

    def _around(self, mean: Tensor, own: Tensor) -> Tensor:
        if not self.residual:
            return super()._around(mean, own)
        return torch.cat(((mean * self.neutral_gain)[None], super()._around(torch.zeros_like(mean), own[1:])))

    def freezing_refusal(self) -> str | None:
        """Return why no static convolution has the mean of this layer's kernels; None if one can."""
        if self.context_axis is None:
            return None
        return "its kernels differ along context_axis, and those of a static convolution do not; leave it dynamic"

    @abstractmethod
    def _logits(self, context: Tensor) -> Tensor:
        """Return the logits ``(B, K)`` of the normalised context ``(B, F)``, by default the averaged input."""

    def _logits_of(self, context: Tensor, *, track: bool) -> Tensor:
        with full_precision(context.device):
            return self._logits(normalise(self.context_norm, context, track=track))


class KernelMixture2d(KernelMixture, DynamicConv2d):
    """`KernelMixture` in two dimensions."""


class DeployedMixture(_Mixture, DeployedConv):
    """Deployed form of a kernel mixture. Its branch has one head, ``attention``, which includes the temperature.

    Args:
        layer: The original layer.
        branch: The deployed form of the layer's branch.
        activation: From logits to weights: ``sigmoid``, or ``softmax`` over the kernels.
    """

    def __init__(self, layer: KernelMixture, branch: DeployedBranch, activation: Literal["sigmoid", "softmax"]) -> None:
        super().__init__(layer)
        self.num_kernels, self.residual = layer.num_kernels, layer.residual
        self.context_axis = layer.context_axis
        self.branch, self.activation = branch, activation
        self._adopt_settings(layer)

    def mixed_kernel(self) -> MixedKernel | None:
        """The kernels, biases and branch; None if the kernels differ along an axis."""
        if self.context_axis is not None:
            return None
        single, softmax, head = len(self.weight) == 1, self.activation == "softmax", self.branch.head("attention")
        if single and not softmax:
            # The weight of the only kernel is a scale that all filters have in common.
            filters = self.out_channels
            return MixedKernel(
                kernels=self.weight,
                branch=self.branch,
                heads={"filter": AffineMap(head.weight.repeat(filters, 1), head.constant.repeat(filters))},
                bias=self.shift,
                scaled_bias=None if self.bias is None else self.bias[0],
            )
        return MixedKernel(
            kernels=self.weight,
            branch=self.branch,
            heads={} if single else {"kernel": head},
            softmax=softmax,
            static=self.residual,
            bias=self.shift,
            biases=self.bias,
        )

    def _logits_of(self, context: Tensor, *, track: bool) -> Tensor:
        logits: Tensor = self.branch(context)["attention"]
        return logits

    def _attention(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits) if self.activation == "sigmoid" else torch.softmax(logits, dim=-1)

    def _mixed_bias(self, attention: Tensor) -> Tensor | None:
        mixed = super()._mixed_bias(attention)
        if self.shift is None:
            return mixed
        return self.shift if mixed is None else mixed + self.shift
