"""ODConv: omni-dimensional dynamic convolution, with attention along every axis of its kernels."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn

from dynaconv.families.contract.affine import add_bias, frozen_sum
from dynaconv.families.contract.base import DynamicConv, DynamicConv1d, DynamicConv2d, DynamicConv3d
from dynaconv.families.contract.branch import NormedBranch
from dynaconv.families.contract.config import AttentionConfig
from dynaconv.families.contract.convolution import DynamicConvolution
from dynaconv.families.contract.deployed import (
    AffineMap,
    DeployedBranch,
    DeployedConv,
    MixedKernel,
    fold_context_norm,
)
from dynaconv.families.contract.norms import make_context_norm, norm_affine, normalise
from dynaconv.families.contract.options import option
from dynaconv.families.contract.temperature import HasTemperature
from dynaconv.families.odconv import (
    ODConvCoefficients,
    grouped_odconv,
    kernel_odconv,
    mixed_odconv,
    odconv_attention,
    odconv_costs,
    odconv_kernel,
)
from dynaconv.families.odconv.compiled import compiled_odconv
from dynaconv.ops import Cost, full_precision
from dynaconv.ops.mixture import supports_compiled

ODConvAlgorithm = Literal["auto", "kernel", "mixed", "grouped"]


@dataclass(frozen=True, kw_only=True)
class ODConvConfig(AttentionConfig):
    """Options of `ODConv2d`.

    Raises:
        ValueError: a field is out of range.
    """

    _algorithms = get_args(ODConvAlgorithm)

    num_kernels: int = option(
        4, "K, the number of kernels; 1 needs the parameters of a static convolution plus the branch."
    )
    min_hidden_channels: int = 16
    algorithm: str = option(
        "auto",
        "``kernel`` forms W(x) and applies it by matrix products, ``mixed`` scales the input and output of one shared "
        "convolution with all K kernels, ``grouped`` forms W(x) and convolves with the batch folded into groups, "
        "``auto`` uses the cost model.",
    )


# Factor on the initial head weights in a network that is trained from scratch, relative to the published ones.
_INITIAL_HEAD_FACTOR = 0.1


class _ODConvolution(DynamicConvolution):
    """Runs ODConv for given logits of its four attentions."""

    num_kernels: int
    branch: Any
    _functions: ClassVar = {"kernel": kernel_odconv, "mixed": mixed_odconv, "grouped": grouped_odconv}

    @abstractmethod
    def _heads_of(self, context: Tensor, *, track: bool) -> Mapping[str, Tensor]:
        """Return the logits of each attention, ``(B, N)``, for a context ``(B, F)``."""

    @abstractmethod
    def _attention(self, logits: ODConvCoefficients) -> ODConvCoefficients:
        """Convert logits to attentions."""

    def logits(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> ODConvCoefficients:
        """Return the logits of the attentions for ``x``, ``(B, C_in, *sizes)``."""
        return self._logits(self._context(x, *self._checked(x, context, mask)), track=False)

    def coefficients(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> ODConvCoefficients:
        """The attentions of each sample of ``x``, ``(B, C_in, *sizes)``, in float32 (float64 for float64 inputs)."""
        return self._attention(self.logits(x, context, mask))

    def kernel(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """W(x) of each sample, ``(B, C_out, C_in / groups, *k)``."""
        return odconv_kernel(self.coefficients(x, context, mask), self.weight, self.groups)

    def _compute(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        x, context = self._averaged(x, context, mask)
        attention = self._attention(self._logits(context, track=True))
        padded = self._padded(x)
        if self.algorithm == "auto" and supports_compiled(padded, attention, self.weight, self.geometry):
            out = compiled_odconv(padded, attention, self.weight, self.geometry)
        else:
            out = self._function(padded)(padded, attention, self.weight, self.geometry)
        return add_bias(out, self.bias)

    def _logits(self, context: Tensor, *, track: bool) -> ODConvCoefficients:
        with full_precision(context.device):
            heads = dict(self._heads_of(context, track=track))
        if "spatial" in heads:
            heads["spatial"] = heads["spatial"].reshape(context.shape[0], *self.kernel_size)
        return ODConvCoefficients(**heads)

    def _costs_of(self, padded: tuple[int, ...]) -> dict[str, Cost]:
        return odconv_costs(self.geometry, padded, self.out_channels, self.num_kernels)

    def extra_repr(self) -> str:
        """The convolution's arguments, the number of kernels and the width of the branch."""
        hidden = len(self.branch.squeeze.weight)
        return f"{super().extra_repr()}, num_kernels={self.num_kernels}, hidden_channels={hidden}"


class _ODConv(HasTemperature, _ODConvolution, DynamicConv):
    """ODConv in any dimension."""

    config_class = ODConvConfig

    def _leading_shapes(self, config: ODConvConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (config.num_kernels,), ()

    def _build(self, config: ODConvConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.num_kernels = config.num_kernels
        features = self._branch_features
        self.context_norm = make_context_norm(config.context_norm, features, device, dtype)
        hidden = max(features // config.reduction, config.min_hidden_channels)
        self.branch = NormedBranch(features, hidden, self._heads(), device=device, dtype=dtype)
        # At zero logits a sigmoid is 1/2, and the softmax gives the mean of the kernels, which needs no gain.
        self.neutral_gain = 0.5 ** sum(name != "kernel" for name in self.branch.heads)
        self._set_up_temperature(config.temperature, device)

    @classmethod
    def fresh_like(cls, conv: Any, **hyperparameters: Any) -> Self:
        """As `DynamicConv.fresh_like`, with small initial weights of the heads.

        The branch's batch norm amplifies the small differences between the averages of samples. With the published head
        weights and a temperature of 1, the attentions of each layer then amplify the gradient, and a network of fifty
        such layers does not train; docs/families/odconv.md has the measurements.

        Raises:
            TypeError: ``conv`` is not a `static_class` or overrides its computation, or an option is unknown.
            ValueError: an option is invalid for the convolution.
        """
        layer = super().fresh_like(conv, **hyperparameters)
        with torch.no_grad():
            for head in layer.branch.heads.values():
                head.weight.mul_(_INITIAL_HEAD_FACTOR)
        return layer

    def _heads(self) -> dict[str, int]:
        """Return the number of logits of each attention that has an effect."""
        taps = self.geometry.num_taps
        heads = {"channel": self.in_channels}
        if not self.in_channels == self.out_channels == self.groups:
            heads["filter"] = self.out_channels
        if taps > 1:
            heads["spatial"] = taps
        if self.num_kernels > 1:
            heads["kernel"] = self.num_kernels
        return heads

    def _heads_of(self, context: Tensor, *, track: bool) -> Mapping[str, Tensor]:
        heads: dict[str, Tensor] = self.branch(normalise(self.context_norm, context, track=track), track=track)
        return heads

    def _attention(self, logits: ODConvCoefficients) -> ODConvCoefficients:
        return odconv_attention(logits, self.temperature)

    def deployed(self) -> "DeployedODConv":
        """Return the deployed form, which computes the layer's function in eval mode."""
        return DeployedODConv(self)


class ODConv2d(_ODConv, DynamicConv2d):
    """A convolution with W(x)[o, i, t] = filter_o(x) channel_i(x) spatial_t(x) sum_k kernel_k(x) W_k[o, i, t].

    The branch is average pool -> linear to max(C_in // reduction, min_hidden_channels) -> batch norm -> ReLU -> one
    linear map with bias for each attention. Every logit is divided by the temperature. The attentions over input
    channels, output channels and positions are sigmoids, the attention over the K kernels is a softmax. An attention
    without effect is left out: over kernels if there is one, over positions if there is one, over output channels if
    each has one input channel of its own (depthwise with C_out = C_in).

    In train mode the branch's batch norm uses the statistics of the batch, so W(x) of a sample depends on the others.
    `kernel` and `coefficients` also use them, but do not update the running statistics.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            As for `torch.nn.Conv2d`.

    Raises:
        ValueError: an argument is out of range or does not match the others.

    Deviations:
        The layer can have a bias, which is added last; the published layer has none. The temperature starts at 1. The
        kernels are initialised as in `torch.nn.Conv2d`; the published code draws them from a normal distribution by
        fan-out. The branch is initialised as published, but see `fresh_like` for networks. A single sample in train
        mode is normalised by running statistics.

    Reference: Li et al., ICLR 2022, arXiv:2209.07947v1 (openreview DmpCfq6Mg39).
    """


class ODConv1d(_ODConv, DynamicConv1d):
    """`ODConv2d` in one dimension; takes the arguments of `torch.nn.Conv1d`."""


class ODConv3d(_ODConv, DynamicConv3d):
    """`ODConv2d` in three dimensions; takes the arguments of `torch.nn.Conv3d`."""


class DeployedODConv(_ODConvolution, DeployedConv):
    """Deployed form of `ODConv2d`. Its branch has a head for each attention, which includes the temperature.

    Args:
        layer: The original layer.
    """

    def __init__(self, layer: _ODConv) -> None:
        super().__init__(layer)
        self.num_kernels = layer.num_kernels
        branch, norm = layer.branch, layer.context_norm
        squeeze = AffineMap.of(branch.squeeze)
        if not isinstance(branch.norm, nn.Identity):
            squeeze = squeeze.fold_output_affine(*norm_affine(branch.norm))
        factor = 1 / float(layer.temperature)
        self.branch = DeployedBranch(
            {name: AffineMap.of(head, factor) for name, head in branch.heads.items()},
            squeeze=fold_context_norm(norm, squeeze),
            normalise=isinstance(norm, nn.LayerNorm),
        )
        self._adopt_settings(layer)

    def mixed_kernel(self) -> MixedKernel:
        """The kernels and the four attentions."""
        heads = {name: self.branch.head(name) for name in self.branch.heads}
        return MixedKernel(kernels=self.weight, branch=self.branch, heads=heads, softmax=True, bias=self.bias)

    def _heads_of(self, context: Tensor, *, track: bool) -> Mapping[str, Tensor]:
        heads: dict[str, Tensor] = self.branch(context)
        return heads

    def _attention(self, logits: ODConvCoefficients) -> ODConvCoefficients:
        return odconv_attention(logits)

    def _add_fixed(self, shift: Tensor) -> None:
        self.bias = frozen_sum(self.bias, shift, self.weight)
