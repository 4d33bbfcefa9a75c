"""Dynamic convolution decomposition: W(x) = Lambda(x) W0 + P Phi(x) Q^T."""

import math
from typing import Any, Self

import torch
from torch import nn

from dynaconv.families.contract.base import DynamicConv2d, adopt_static
from dynaconv.families.contract.checks import check_positive, check_real
from dynaconv.families.contract.static import carry_attachments, check_static
from dynaconv.families.dcd.config import DCDConfig
from dynaconv.families.dcd.core import DCDCore, DCDOnImages, DCDOnRows
from dynaconv.families.dcd.deployed import DeployedDCDConv2d, DeployedDCDLinear


class DCDConv2d(DCDCore, DCDOnImages, DynamicConv2d):
    """A convolution whose kernel is W(x) = Lambda(x) W0 + P Phi(x) Q^T.

    Lambda(x) scales the channels out of the static kernel W0. The residual mixes L latent channels with a dynamic
    L x L matrix Phi(x); for a kxk kernel it sits at the centre tap (``fusion="channel"``), reaches all taps through
    R (``"joint"``), or, for a depthwise convolution, is P Phi(x) R^T (``"depthwise"``).

    With ``norm=None`` these equations hold exactly, in train mode too. With ``norm="batch"`` batch norms stand around
    Phi and a skip over it, and Lambda also scales the bias, as in the published code; in eval mode the norms fold into
    Phi and the layer has a kernel again.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            As for `torch.nn.Conv2d`.

    Raises:
        ValueError: an argument is out of range or does not fit the convolution.

    Deviations:
        The context is normalised over the batch, the branch has at least 16 hidden units, its hidden vector has unit
        length, Lambda is a sigmoid, and heads and residual are divided by lengths of their weights (`weight_norm`); the
        paper asks for none of these. Without gradient clipping the bare branch stays near chance at rates at which the
        static network trains; with clipping both train (`benchmarks/stability.py`, docs/families/dcd.md). The bare
        branch is ``context_norm=None, hidden_norm=None, weight_norm=False, scale_activation="linear"``.

    Reference: Li et al., ICLR 2021, arXiv:2103.08756v1.
    """

    config_class = DCDConfig

    def _build(self, config: DCDConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.context_size = config.context_size
        self._build_dynamic(config, self.in_channels, self.out_channels, self.groups, self.geometry.num_taps)

    def reset_parameters(self) -> None:
        """Initialise every parameter: W0 as `torch.nn.Conv2d` does, the dynamic part near zero."""
        self._reset_static()
        self._reset_dynamic()

    def deployed(self) -> DeployedDCDConv2d:
        """What the layer computes in eval mode, as it is shipped."""
        return DeployedDCDConv2d(self)

    def extra_repr(self) -> str:
        """The convolution's arguments and DCD's sizes."""
        return f"{super().extra_repr()}, {self._dcd_repr()}"


class DCDLinear(DCDCore, DCDOnRows):
    """A linear layer whose matrix is W(x) = Lambda(x) W0 + P Phi(x) Q^T; the context is the input vector itself.

    Args:
        in_features, out_features, bias, device, dtype: As for `torch.nn.Linear`.

    Raises:
        ValueError: an argument is out of range or does not fit.

    Reference: Li et al., ICLR 2021, arXiv:2103.08756v1; a dynamic classifier is part of the published networks.
    """

    config_class = DCDConfig
    _without = ("fusion", "latent_taps", "context_size")

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
        self.in_features = check_positive("in_features", in_features)
        self.out_features = check_positive("out_features", out_features)
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

    @classmethod
    def like(cls, linear: nn.Linear, **hyperparameters: Any) -> Self:
        """A layer with the sizes, static weights, dtype, device and modes of ``linear``, its dynamic part as fresh.

        Raises:
            TypeError: ``linear`` is no `torch.nn.Linear` or computes something else, or a hyperparameter is unknown.
            ValueError: a hyperparameter does not fit.
        """
        check_static(linear, nn.Linear, f"{cls.__name__}.from_linear")
        weight = linear.weight
        layer = cls(
            linear.in_features,
            linear.out_features,
            linear.bias is not None,
            weight.device,
            weight.dtype,
            **hyperparameters,
        )
        adopt_static(layer, linear)
        carry_attachments(linear, layer)
        return layer

    @classmethod
    def from_linear(cls, linear: nn.Linear, **hyperparameters: Any) -> Self:
        """A DCD layer that computes what ``linear`` computes until it is trained; see `DCDConv2d.from_conv`."""
        layer = cls.like(linear, **hyperparameters)
        layer._neutralise()
        return layer

    def deployed(self) -> DeployedDCDLinear:
        """What the layer computes in eval mode, as it is shipped."""
        return DeployedDCDLinear(self)

    def extra_repr(self) -> str:
        """Sizes of the layer."""
        return f"{super().extra_repr()}, {self._dcd_repr()}"
