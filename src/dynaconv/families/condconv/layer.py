"""CondConv: conditionally parameterised convolution."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynaconv.families.contract.base import (
    DynamicConv1d,
    DynamicConv2d,
    DynamicConv3d,
    DynamicConvTranspose1d,
    DynamicConvTranspose2d,
    DynamicConvTranspose3d,
)
from dynaconv.families.contract.branch import BranchLinear
from dynaconv.families.contract.checks import check_integer
from dynaconv.families.contract.deployed import AffineMap, DeployedBranch, fold_context_norm
from dynaconv.families.contract.mixture import DeployedMixture, KernelMixture, MixtureConfig
from dynaconv.families.contract.options import option


@dataclass(frozen=True, kw_only=True)
class CondConvConfig(MixtureConfig):
    """Options of `CondConv2d`.

    Raises:
        ValueError: a field is out of range.
    """

    num_experts: int = option(8, "K, the number of kernels.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("num_experts", self.num_experts)


class _CondConv(KernelMixture):
    """CondConv in any dimension."""

    branch: BranchLinear

    config_class = CondConvConfig

    @staticmethod
    def _kernel_count(config: CondConvConfig) -> int:
        return config.num_experts

    def _build(self, config: CondConvConfig, device: torch.device, dtype: torch.dtype) -> None:
        super()._build(config, device, dtype)
        self.branch = BranchLinear(self._branch_features, config.num_experts, None, device, dtype, bias=True)
        self.neutral_gain = self.neutral_bias_gain = config.num_experts / 2

    def _logits(self, context: Tensor) -> Tensor:
        logits: Tensor = self.branch(context)
        return logits

    def _attention(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits)

    def deployed(self) -> DeployedMixture:
        """Return the deployed form, which computes the layer's function in eval mode."""
        norm = self.context_norm
        head = fold_context_norm(norm, AffineMap.of(self.branch))
        branch = DeployedBranch({"attention": head}, normalise=isinstance(norm, nn.LayerNorm))
        return DeployedMixture(self, branch, "sigmoid")


class CondConv2d(_CondConv, DynamicConv2d):
    """A convolution with W(x) = sum_k sigmoid(r_k(x)) W_k and a bias mixed in the same way.

    The routing r(x) is a linear map with bias of the averaged input; each layer has its own. The weights are
    independent of one another and need not sum to one; at zero logits each is 1/2.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            As for `torch.nn.Conv2d`.

    Raises:
        ValueError: an argument is out of range or does not match the others.

    Reference: Yang et al., NeurIPS 2019, arXiv:1904.04971v3.
    """


class CondConv1d(_CondConv, DynamicConv1d):
    """`CondConv2d` in one dimension; takes the arguments of `torch.nn.Conv1d`."""


class CondConv3d(_CondConv, DynamicConv3d):
    """`CondConv2d` in three dimensions; takes the arguments of `torch.nn.Conv3d`."""


class CondConvTranspose1d(_CondConv, DynamicConvTranspose1d):
    """`CondConv2d`, transposed, in one dimension; takes the arguments of `torch.nn.ConvTranspose1d`."""


class CondConvTranspose2d(_CondConv, DynamicConvTranspose2d):
    """`CondConv2d`, transposed, in two dimensions; takes the arguments of `torch.nn.ConvTranspose2d`."""


class CondConvTranspose3d(_CondConv, DynamicConvTranspose3d):
    """`CondConv2d`, transposed, in three dimensions; takes the arguments of `torch.nn.ConvTranspose3d`."""
