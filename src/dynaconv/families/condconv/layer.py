"""CondConv: conditionally parameterised convolution."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dynaconv.families.contract.base import PaddingMode
from dynaconv.families.contract.branch import BranchLinear
from dynaconv.families.contract.checks import check_positive
from dynaconv.families.contract.config import LayerConfig
from dynaconv.families.contract.mixture import MIXTURE_ALGORITHMS, KernelMixture2d, MixtureAlgorithm
from dynaconv.families.contract.norms import ContextNorm


@dataclass(frozen=True, kw_only=True)
class CondConvConfig(LayerConfig):
    """Options of `CondConv2d`.

    Raises:
        ValueError: a field is out of range.
    """

    _algorithms = MIXTURE_ALGORITHMS

    num_experts: int = 8
    """K, the number of kernels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("num_experts", self.num_experts)


class CondConv2d(KernelMixture2d):
    """A convolution with W(x) = sum_k sigmoid(r_k(x)) W_k, its bias mixed alike.

    r(x) is one linear map, with bias, of the averaged input: routing of this layer's own. The weights are independent
    of one another and need not sum to one; at logits zero each is 1/2.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            As for `torch.nn.Conv2d`.
        num_experts: K, the number of kernels.
        context_norm: Norm of the averaged input, without scale and shift: ``layer`` over its channels, ``batch`` over
            the batch, ``running`` by the statistics of earlier batches; None leaves it as it is. In eval mode the last
            two are fixed, and `dynaconv.deploy` folds them into the branch.
        algorithm: ``kernel`` forms W(x) and multiplies, ``mixed`` mixes the outputs of all kernels, ``grouped`` forms
            W(x) and convolves with the batch folded into groups, ``auto`` asks the cost model.

    Raises:
        ValueError: an argument is out of range or does not fit.

    Reference: Yang et al., NeurIPS 2019, arXiv:1904.04971v3.
    """

    branch: BranchLinear

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        num_experts: int = 8,
        context_norm: ContextNorm = None,
        algorithm: MixtureAlgorithm = "auto",
    ) -> None:
        config = CondConvConfig(num_experts=num_experts, context_norm=context_norm, algorithm=algorithm)
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
            num_kernels=num_experts,
            context_norm=context_norm,
        )
        self.config = config
        self.branch = BranchLinear(in_channels, num_experts, None, device, dtype, bias=True)
        self.neutral_gain = self.neutral_bias_gain = num_experts / 2
        self.reset_parameters()

    @property
    def _first_map(self) -> BranchLinear:
        return self.branch

    def _logits(self, context: Tensor) -> Tensor:
        logits: Tensor = self.branch(context)
        return logits

    def _attention(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits)
