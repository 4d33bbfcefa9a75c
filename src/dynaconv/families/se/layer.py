"""A convolution followed by squeeze-and-excitation, as a dynamic convolution."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from dynaconv.families.contract.affine import add_bias
from dynaconv.families.contract.base import DynamicConv, DynamicConv1d, DynamicConv2d, DynamicConv3d
from dynaconv.families.contract.branch import DynamicBranch
from dynaconv.families.contract.config import BranchConfig
from dynaconv.families.contract.convolution import DynamicConvolution
from dynaconv.families.contract.deployed import AffineMap, DeployedBranch, DeployedConv, MixedKernel
from dynaconv.families.contract.norms import make_context_norm, normalise
from dynaconv.families.contract.options import option
from dynaconv.families.se import (
    factored_squeeze_excite,
    kernel_squeeze_excite,
    scale_rows,
    squeeze_excite_costs,
)
from dynaconv.ops import Cost, shared_conv

SEAlgorithm = Literal["auto", "kernel", "factored"]


@dataclass(frozen=True, kw_only=True)
class SEConfig(BranchConfig):
    """Options of `SEConv2d`.

    Raises:
        ValueError: a field is out of range.
    """

    _algorithms = get_args(SEAlgorithm)

    min_hidden_channels: int = 8
    algorithm: str = option(
        "auto",
        "``factored`` scales the output, ``kernel`` forms W(x) and convolves once more, ``auto`` uses the cost model, "
        "which always chooses ``factored``.",
    )


class SECoefficients(NamedTuple):
    """Coefficients of squeeze-and-excitation."""

    scale: Tensor
    """Factor on each output channel, ``(B, C_out)`` in [0, 1], in float32 (float64 for float64 inputs)."""


class _SqueezeExcite(DynamicConvolution):
    """A convolution whose output is scaled by the result of `_scales`."""

    _functions: ClassVar = {"kernel": kernel_squeeze_excite, "factored": factored_squeeze_excite}
    _exported_algorithm = "factored"
    branch: Any

    @abstractmethod
    def _scales_of(self, context: Tensor, *, track: bool) -> Tensor:
        """Compute the scales ``(B, C_out)`` from a context ``(B, F)``."""

    def _scales(self, out: Tensor, context: Tensor | None, mask: Tensor | None, *, track: bool) -> Tensor:
        """Compute the scales from the convolution's output, which includes the bias, or from a given context.

        The mask is one of the input; an output counts if the one at its place in the sample without padding exists.
        """
        return self._scales_of(
            self._context(out, context, None if mask is None else self._of_output(mask)), track=track
        )

    def _of_output(self, mask: Tensor) -> Tensor:
        """Return the mask of the output for a mask ``(B, 1, *sizes)`` of the input, whose padding is at its ends."""
        geometry, pads = self._geometry_and_pads
        for axis, size in enumerate(mask.shape[2:]):
            first = 2 * (self.dims - 1 - axis)
            added = 2 * geometry.padding[axis] + (0 if pads is None else sum(pads[first : first + 2]))
            excess = geometry.dilation[axis] * (geometry.kernel_size[axis] - 1) - added
            count = (size - excess - 1) // geometry.stride[axis] + 1
            # A sample of n pixels has output o if o * stride + excess < n, so if its pixel of this number exists.
            last = torch.arange(count, device=mask.device) * geometry.stride[axis] + excess
            mask = mask.index_select(2 + axis, last.clamp(0, size - 1))
        return mask

    def coefficients(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> SECoefficients:
        """The scales for ``x``, ``(B, C_in, *sizes)``.

        Without a context it runs the convolution, because the scales depend on its output.
        """
        context, mask = self._checked(x, context, mask)
        out = x if context is not None else shared_conv(self._padded(x), self.weight, self.geometry, self.bias)
        return SECoefficients(self._scales(out, context, mask, track=False))

    def kernel(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """W(x) of each sample, ``(B, C_out, C_in / groups, *k)``."""
        return scale_rows(self.coefficients(x, context, mask).scale, self.weight)

    def sample_bias(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor | None:
        """The scaled bias of each sample, ``(B, C_out)``, or None."""
        return None if self.bias is None else scale_rows(self.coefficients(x, context, mask).scale, self.bias)

    def _compute(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        padded = self._padded(x)
        scales = partial(self._scales, context=context, mask=mask, track=True)
        return self._function(padded)(padded, self.weight, self.bias, scales, self.geometry)

    def published_macs(self, input_shape: tuple[int, ...]) -> int:
        """Multiply-adds for an input ``(B, C_in, *sizes)`` as papers count them: the convolution, F1 and F2.

        The multiplication of each output by its scale is not counted.
        """
        static = self.algorithm_costs(input_shape)["factored"].multiply_adds
        hidden, features = self.branch.squeeze.weight.shape
        return int(static) + input_shape[0] * int(features + self.out_channels) * int(hidden)

    def _costs_of(self, padded: tuple[int, ...]) -> dict[str, Cost]:
        return squeeze_excite_costs(self.geometry, padded, self.out_channels)

    def extra_repr(self) -> str:
        """The convolution's arguments and the width of the branch."""
        return f"{super().extra_repr()}, hidden_channels={len(self.branch.squeeze.weight)}"


class _SEConv(_SqueezeExcite, DynamicConv):
    """A convolution with squeeze-and-excitation in any dimension."""

    neutral_gain = neutral_bias_gain = 0.5
    branch: DynamicBranch

    config_class = SEConfig

    def _build(self, config: SEConfig, device: torch.device, dtype: torch.dtype) -> None:
        features = self._branch_features
        self.context_norm = make_context_norm(config.context_norm, features, device, dtype)
        self.branch = DynamicBranch(
            features,
            max(features // config.reduction, config.min_hidden_channels),
            {"scale": self.out_channels},
            unit_hidden=False,
            device=device,
            dtype=dtype,
            squeeze_bias=True,
            head_bias=True,
        )

    @property
    def _own_features(self) -> int:
        return self.out_channels

    def _scales_of(self, context: Tensor, *, track: bool) -> Tensor:
        return torch.sigmoid(self.branch(normalise(self.context_norm, context, track=track))["scale"])

    def deployed(self) -> "DeployedSEConv":
        """Return the deployed form, which computes the layer's function in eval mode."""
        return DeployedSEConv(self)


class SEConv2d(_SEConv, DynamicConv2d):
    """A convolution whose output y is scaled per channel by s = sigmoid(F2 relu(F1 pool(y))).

    As a dynamic convolution, W(x) = diag(s) W and the bias is s * bias. Unlike Lambda(x) of `dynaconv.DCDConv2d`, s
    depends on the output, so the convolution has to run before its kernel is known. F1 and F2 have biases; F1 has
    max(C_out // reduction, min_hidden_channels) outputs.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            As for `torch.nn.Conv2d`.

    Raises:
        ValueError: an argument is out of range or does not match the others.

    Deviations:
        The paper scales a residual block's output after its last batch norm. Here the output of the convolution is
        scaled directly, before any norm, so that networks of different families differ only in their convolutions.

    Reference: Hu et al., CVPR 2018, arXiv:1709.01507v4.
    """


class SEConv1d(_SEConv, DynamicConv1d):
    """`SEConv2d` in one dimension; takes the arguments of `torch.nn.Conv1d`."""


class SEConv3d(_SEConv, DynamicConv3d):
    """`SEConv2d` in three dimensions; takes the arguments of `torch.nn.Conv3d`."""


class DeployedSEConv(_SqueezeExcite, DeployedConv):
    """Deployed form of `SEConv2d`. Its branch has one head, ``scale``, which gives the logits of the scales.

    Args:
        layer: The original layer.
    """

    def __init__(self, layer: _SEConv) -> None:
        super().__init__(layer)
        self.branch = DeployedBranch.of(layer.branch, layer.context_norm)
        self._adopt_settings(layer)

    def excitation(self) -> AffineMap:
        """The map of the scales."""
        head: AffineMap = self.branch.head("scale")
        return head

    def mixed_kernel(self) -> MixedKernel | None:
        """One kernel, scaled by its filters; None if the kernel reads more than one pixel, or not all pixels.

        The mean of a pointwise convolution's output is the convolution of its input's mean, so the branch can read the
        input.
        """
        branch, first = self.branch, self.branch.squeeze
        pointwise = {*self.kernel_size, *self.stride} == {1} and self.groups == 1 and set(self.padding) == {0}
        if not pointwise or branch.normalise or first is None:
            return None
        weight, bias = self.weight.flatten(1).to(first.weight), self.bias
        constant = first.constant if bias is None else first.constant + first.weight @ bias.to(first.weight)
        return MixedKernel(
            kernels=self.weight[None],
            branch=DeployedBranch({}, squeeze=AffineMap(first.weight @ weight, constant), activation=branch.activation),
            heads={"filter": branch.head("scale")},
            bias=self.shift,
            scaled_bias=bias,
        )

    def sample_bias(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor | None:
        """The scaled bias of each sample, ``(B, C_out)``, or None."""
        bias = super().sample_bias(x, context, mask)
        if self.shift is None:
            return bias
        return self.shift.expand(x.shape[0], -1) if bias is None else bias + self.shift

    def absorb_affine(self, scale: Tensor, shift: Tensor) -> None:
        """Make the layer compute ``scale * forward(x) + shift``; see `DeployedLayer.absorb_affine`.

        Without `context_features`, the branch reads the output, so its first map is multiplied by the inverse scale.

        Raises:
            ValueError: a channel's scale is zero or too small to divide by, or the branch has a layer norm; the layer
                is unchanged.
        """
        if self.context_features is not None:
            super().absorb_affine(scale, shift)
            return
        first = self.branch.squeeze
        assert first is not None
        inverse = 1 / scale.to(first.weight)
        if not torch.isfinite(inverse).all():
            raise ValueError("a channel's scale is zero, but squeeze-and-excitation reads that channel.")
        if self.branch.normalise:
            raise ValueError("a layer norm of the output stands before the branch.")
        super().absorb_affine(scale, shift)
        self.branch.squeeze = first.fold_input_affine(inverse, torch.zeros_like(inverse))

    def _compute(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return add_bias(super()._compute(x, context, mask), self.shift)

    def _scales_of(self, context: Tensor, *, track: bool) -> Tensor:
        return torch.sigmoid(self.branch(context)["scale"])
