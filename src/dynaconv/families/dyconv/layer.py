"""DY-Conv: attention over kernels, also called vanilla dynamic convolution."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dynaconv.families.contract.base import (
    DynamicConv1d,
    DynamicConv2d,
    DynamicConv3d,
    DynamicConvTranspose1d,
    DynamicConvTranspose2d,
    DynamicConvTranspose3d,
)
from dynaconv.families.contract.branch import DynamicBranch
from dynaconv.families.contract.config import AttentionConfig
from dynaconv.families.contract.deployed import DeployedBranch
from dynaconv.families.contract.mixture import DeployedMixture, KernelMixture, MixtureConfig
from dynaconv.families.contract.temperature import HasTemperature


@dataclass(frozen=True, kw_only=True)
class DYConvConfig(MixtureConfig, AttentionConfig):
    """Options of `DYConv2d`.

    Raises:
        ValueError: a field is out of range.
    """

    reduction: int = 4


class _DYConv(HasTemperature, KernelMixture):
    """DY-Conv in any dimension."""

    branch: DynamicBranch

    config_class = DYConvConfig

    @staticmethod
    def _kernel_count(config: DYConvConfig) -> int:
        return config.num_kernels

    def _build(self, config: DYConvConfig, device: torch.device, dtype: torch.dtype) -> None:
        super()._build(config, device, dtype)
        self.branch = DynamicBranch(
            self._branch_features,
            max(self._branch_features // config.reduction, config.min_hidden_channels),
            {"attention": config.num_kernels},
            unit_hidden=False,
            device=device,
            dtype=dtype,
            head_bias=True,
        )
        self._set_up_temperature(config.temperature, device)

    def _logits(self, context: Tensor) -> Tensor:
        logits: Tensor = self.branch(context)["attention"]
        return logits

    def _attention(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits / self.temperature.to(logits.dtype), dim=-1)

    def deployed(self) -> DeployedMixture:
        """Return the deployed form, which computes the layer's function in eval mode."""
        branch = DeployedBranch.of(self.branch, self.context_norm, 1 / float(self.temperature))
        return DeployedMixture(self, branch, "softmax")

    def extra_repr(self) -> str:
        """The convolution's arguments, the number of kernels and the width of the branch."""
        return f"{super().extra_repr()}, hidden_channels={self.branch.squeeze.out_features}"


class DYConv2d(_DYConv, DynamicConv2d):
    """A convolution with W(x) = sum_k pi_k(x) W_k and a bias mixed in the same way; pi(x) is a softmax.

    The branch is average pool -> linear to max(C_in // reduction, min_hidden_channels) -> ReLU -> linear with bias to
    K -> softmax with temperature. The paper's temperature falls from 30 to 1 over the first ten epochs, so that every
    kernel learns at first; see `dynaconv.set_temperature` and the callback of ``dynaconv train``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            As for `torch.nn.Conv2d`.

    Raises:
        ValueError: an argument is out of range or does not match the others.

    Deviations:
        The temperature starts at 1, the plain softmax. With an initial temperature of 30 and no schedule, a layer would
        stay close to the mean of its kernels.

    Reference: Chen et al., CVPR 2020, arXiv:1912.03458v2.
    """


class DYConv1d(_DYConv, DynamicConv1d):
    """`DYConv2d` in one dimension; takes the arguments of `torch.nn.Conv1d`."""


class DYConv3d(_DYConv, DynamicConv3d):
    """`DYConv2d` in three dimensions; takes the arguments of `torch.nn.Conv3d`."""


class DYConvTranspose1d(_DYConv, DynamicConvTranspose1d):
    """`DYConv2d`, transposed, in one dimension; takes the arguments of `torch.nn.ConvTranspose1d`."""


class DYConvTranspose2d(_DYConv, DynamicConvTranspose2d):
    """`DYConv2d`, transposed, in two dimensions; takes the arguments of `torch.nn.ConvTranspose2d`."""


class DYConvTranspose3d(_DYConv, DynamicConvTranspose3d):
    """`DYConv2d`, transposed, in three dimensions; takes the arguments of `torch.nn.ConvTranspose3d`."""
