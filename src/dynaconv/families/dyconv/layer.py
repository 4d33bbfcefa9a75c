"""DY-Conv: attention over kernels, also called vanilla dynamic convolution."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dynaconv.families.contract.base import PaddingMode
from dynaconv.families.contract.branch import DynamicBranch
from dynaconv.families.contract.config import AttentionConfig
from dynaconv.families.contract.mixture import MIXTURE_ALGORITHMS, KernelMixture2d, MixtureAlgorithm
from dynaconv.families.contract.norms import ContextNorm
from dynaconv.families.contract.temperature import HasTemperature


@dataclass(frozen=True, kw_only=True)
class DYConvConfig(AttentionConfig):
    """Options of `DYConv2d`.

    Raises:
        ValueError: a field is out of range.
    """

    _algorithms = MIXTURE_ALGORITHMS

    reduction: int = 4


class DYConv2d(HasTemperature, KernelMixture2d):
    """A convolution with W(x) = sum_k pi_k(x) W_k, its bias mixed alike, pi(x) a softmax with temperature.

    The branch is average pool -> linear to max(C_in // reduction, min_hidden_channels) -> ReLU -> linear with bias to
    K. The paper trains with a temperature that falls from 30 to 1 over the first ten epochs, so that every kernel
    learns at first; see `dynaconv.set_temperature` and the callback of ``dynaconv train``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            As for `torch.nn.Conv2d`.
        num_kernels: K.
        reduction: Divisor that gives the branch's width.
        min_hidden_channels: Least width of the branch.
        temperature: Divides the logits; > 0. Saved in the state dict, never averaged with the weights.
        context_norm: Norm of the averaged input, without scale and shift: ``layer`` over its channels, ``batch`` over
            the batch, ``running`` by the statistics of earlier batches; None leaves it as it is. In eval mode the last
            two are fixed, and `dynaconv.deploy` folds them into the branch.
        algorithm: ``kernel`` forms W(x) and multiplies, ``mixed`` mixes the outputs of all kernels, ``grouped`` forms
            W(x) and convolves with the batch folded into groups, ``auto`` asks the cost model.

    Raises:
        ValueError: an argument is out of range or does not fit.

    Deviations:
        The temperature starts at 1, the plain softmax: a layer that nobody anneals would stay close to the mean of its
        kernels at 30.

    Reference: Chen et al., CVPR 2020, arXiv:1912.03458v2.
    """

    branch: DynamicBranch

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
        num_kernels: int = 4,
        reduction: int = 4,
        min_hidden_channels: int = 4,
        temperature: float = 1.0,
        context_norm: ContextNorm = None,
        algorithm: MixtureAlgorithm = "auto",
    ) -> None:
        config = DYConvConfig(
            num_kernels=num_kernels,
            reduction=reduction,
            min_hidden_channels=min_hidden_channels,
            temperature=temperature,
            context_norm=context_norm,
            algorithm=algorithm,
        )
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
            num_kernels=num_kernels,
            context_norm=context_norm,
        )
        self.config = config
        self.branch = DynamicBranch(
            in_channels,
            max(in_channels // reduction, min_hidden_channels),
            {"attention": num_kernels},
            unit_hidden=False,
            device=device,
            dtype=dtype,
            head_bias=True,
        )
        self._set_up_temperature(temperature, device)
        self.reset_parameters()

    def _logits(self, context: Tensor) -> Tensor:
        logits: Tensor = self.branch(context)["attention"]
        return logits

    def _attention(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits / self.temperature.to(logits.dtype), dim=1)

    def extra_repr(self) -> str:
        """The convolution's arguments, the number of kernels and the width of the branch."""
        return f"{super().extra_repr()}, hidden_channels={self.branch.squeeze.out_features}"
