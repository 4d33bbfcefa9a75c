"""Dynamic convolution decomposition: W(x) = Lambda(x) W0 + P Phi(x) Q^T."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dynaconv.families.contract.base import (
    DynamicConv,
    DynamicConv1d,
    DynamicConv2d,
    DynamicConv3d,
    DynamicConvTranspose1d,
    DynamicConvTranspose2d,
    DynamicConvTranspose3d,
)
from dynaconv.families.contract.checks import check_integer, check_real
from dynaconv.families.contract.linear import DynamicLinear
from dynaconv.families.dcd.config import DCDConfig, DCDLinearConfig
from dynaconv.families.dcd.core import DCDOnImages, DCDOnRows
from dynaconv.families.dcd.deployed import DeployedDCDConv, DeployedDCDLinear
from dynaconv.families.dcd.trainable import DCDCore


class _DCDConv(DCDCore, DCDOnImages, DynamicConv):
    """DCD as a convolution in any dimension."""

    config_class = DCDConfig

    def _build(self, config: DCDConfig, device: torch.device, dtype: torch.dtype) -> None:
        if self.transposed and config.norm == "batch":
            raise ValueError(
                "norm='batch' normalises the residual at the output's pixels, and that of a transposed convolution has "
                "values at some of them only; use norm=None."
            )
        self.context_size = config.context_size
        taps = self.geometry.num_taps
        self._build_dynamic(config, self.in_channels, self.out_channels, self.groups, taps, self.dims)

    def reset_parameters(self) -> None:
        """Initialise every parameter: W0 as `static_class` does, the dynamic part near zero."""
        self._reset_static()
        self._reset_dynamic()

    def _compute(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        padded = self._geometry_and_pads[1] is not None
        if context is None and mask is None and not padded and self.context_size == 1:
            out = self._compiled(self._padded(x), None)
            if out is not None:
                return out
        return super()._compute(x, context, mask)

    def deployed(self) -> DeployedDCDConv:
        """Return the deployed form, which computes the layer's function in eval mode."""
        return DeployedDCDConv(self)

    def extra_repr(self) -> str:
        """The convolution's arguments and DCD's sizes."""
        return f"{super().extra_repr()}, {self._dcd_repr()}"


class DCDConv2d(_DCDConv, DynamicConv2d):
    """A convolution whose kernel is W(x) = Lambda(x) W0 + P Phi(x) Q^T.

    Lambda(x) scales the output channels of the static kernel W0. The residual mixes L latent channels with a dynamic
    L x L matrix Phi(x). For a kxk kernel it is added to the centre tap (``fusion="channel"``), covers all taps through
    R (``"joint"``), or, for a depthwise convolution, is P Phi(x) R^T (``"depthwise"``).

    With ``norm=None`` these equations hold exactly, also in train mode. With ``norm="batch"`` the residual is
    P (BN2(Phi(x) z) + z) with z = BN1(Q^T x), and Lambda also scales the bias, as in the published code. In eval mode
    the norms are folded into Phi, so that the layer has a kernel again.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            As for `torch.nn.Conv2d`.

    Raises:
        ValueError: an argument is out of range or does not match the convolution.

    Deviations:
        The context is normalised over the batch, the branch has at least 16 hidden units, its hidden vector has unit
        length, Lambda is a sigmoid, and heads and residual are divided by lengths of their weights (`weight_norm`). The
        paper has none of these. A branch with ``context_norm=None, hidden_norm=None, weight_norm=False,
        scale_activation="linear"`` and without gradient clipping stays near chance accuracy at learning rates at which
        the static network trains; with clipping both train (`benchmarks/stability.py`, docs/families/dcd.md).

    Reference: Li et al., ICLR 2021, arXiv:2103.08756v1.
    """


class DCDConv1d(_DCDConv, DynamicConv1d):
    """`DCDConv2d` in one dimension; takes the arguments of `torch.nn.Conv1d`."""


class DCDConv3d(_DCDConv, DynamicConv3d):
    """`DCDConv2d` in three dimensions; takes the arguments of `torch.nn.Conv3d`."""


class DCDConvTranspose1d(_DCDConv, DynamicConvTranspose1d):
    """`DCDConv2d`, transposed, in one dimension; takes the arguments of `torch.nn.ConvTranspose1d`."""


class DCDConvTranspose2d(_DCDConv, DynamicConvTranspose2d):
    """`DCDConv2d`, transposed, in two dimensions; takes the arguments of `torch.nn.ConvTranspose2d`."""


class DCDConvTranspose3d(_DCDConv, DynamicConvTranspose3d):
    """`DCDConv2d`, transposed, in three dimensions; takes the arguments of `torch.nn.ConvTranspose3d`."""


class DCDLinear(DCDCore, DCDOnRows, DynamicLinear):
    """A linear layer whose matrix is W(x) = Lambda(x) W0 + P Phi(x) Q^T; the context is the input vector itself.

    With `average_rows`, all rows of a sample of ``(B, ..., in_features)`` have one matrix, whose context is their mean:
    the layer then is a `DCDConv2d` of size 1 on channels-last features. With `context_features`, they have one matrix
    and a context ``(B, F)`` that is given.

    Args:
        in_features, out_features, bias, device, dtype: As for `torch.nn.Linear`.

    Raises:
        ValueError: an argument is out of range or does not match the others.

    Reference: Li et al., ICLR 2021, arXiv:2103.08756v1; a dynamic classifier is part of the published networks.
    """

    config_class = DCDLinearConfig
    _without = ("fusion", "latent_taps", "context_size")
    network_options: ClassVar = {"average_rows": True}

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        config = self._make_config(options)
        self.context_features, self.average_rows = config.context_features, config.average_rows
        self.in_features = check_integer("in_features", in_features)
        self.out_features = check_integer("out_features", out_features)
        self.weight = nn.Parameter(check_real(torch.empty(out_features, in_features, device=device, dtype=dtype)))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self._build_dynamic(config, in_features, out_features, groups=1, num_taps=1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise every parameter: W0 as `torch.nn.Linear` does, the dynamic part near zero."""
        bound = 1 / math.sqrt(self.in_features)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)
        self._reset_dynamic()

    def deployed(self) -> DeployedDCDLinear:
        """Return the deployed form, which computes the layer's function in eval mode."""
        return DeployedDCDLinear(self)

    def extra_repr(self) -> str:
        """Sizes of the layer."""
        return f"{super().extra_repr()}, {self._dcd_repr()}"
