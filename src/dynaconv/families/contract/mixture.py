"""What CondConv and DY-Conv have in common: K kernels and biases, summed with weights that depend on the input."""

from abc import abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from dynaconv.families.contract.affine import add_bias
from dynaconv.families.contract.base import DynamicConv2d
from dynaconv.families.contract.branch import context_dtype
from dynaconv.families.contract.convolution import DynamicConvolution
from dynaconv.families.contract.deployed import DeployedBranch, DeployedConv2d
from dynaconv.families.contract.norms import make_context_norm, normalise
from dynaconv.ops import Cost, full_precision, pool_context
from dynaconv.ops.mixture import grouped_mixture, kernel_mixture, mix_kernels, mixed_mixture, mixture_costs

MixtureAlgorithm = Literal["auto", "kernel", "mixed", "grouped"]
MIXTURE_ALGORITHMS = ("auto", "kernel", "mixed", "grouped")


class MixtureCoefficients(NamedTuple):
    """What the branch of a kernel mixture computes."""

    attention: Tensor
    """Weight of each kernel, ``(B, K)``, in float32 (float64 for float64 inputs)."""


class _Mixture(DynamicConvolution):
    """W(x) = sum_k a_k(x) W_k and its bias mixed alike, given the weights."""

    num_kernels: int
    _functions: ClassVar = {"kernel": kernel_mixture, "mixed": mixed_mixture, "grouped": grouped_mixture}

    @abstractmethod
    def _checked_logits(self, x: Tensor, *, track: bool) -> Tensor:
        """``(B, K)`` of an input that was checked; ``track`` says whether train mode updates running statistics."""

    @abstractmethod
    def _attention(self, logits: Tensor) -> Tensor:
        """Weights of the kernels, ``(B, K)``, of logits."""

    def logits(self, x: Tensor) -> Tensor:
        """What the branch gives for ``x``, ``(B, C_in, H, W)``, before it becomes attention: ``(B, K)``."""
        self._check_input(x)
        return self._checked_logits(x, track=False)

    def coefficients(self, x: Tensor) -> MixtureCoefficients:
        """The weight of each kernel for each sample of ``x``, ``(B, C_in, H, W)``."""
        return MixtureCoefficients(self._attention(self.logits(x)))

    def kernel(self, x: Tensor) -> Tensor:
        """W(x) of each sample, ``(B, C_out, C_in / groups, k_h, k_w)``."""
        return mix_kernels(self.coefficients(x).attention, self.weight)

    def sample_bias(self, x: Tensor) -> Tensor | None:
        """The mixed bias of each sample, ``(B, C_out)``, or None."""
        bias = self._mixed_bias(self.coefficients(x).attention)
        return None if bias is None else bias.expand(x.shape[0], -1)

    def _compute(self, x: Tensor) -> Tensor:
        attention = self._attention(self._checked_logits(x, track=True))
        padded = self._padded(x)
        out = self._function(padded)(padded, attention, self.weight, self.geometry)
        return add_bias(out, self._mixed_bias(attention))

    def _mixed_bias(self, attention: Tensor) -> Tensor | None:
        """The bias of each sample, ``(B, C_out)``, or of all, ``(C_out,)``."""
        return None if self.bias is None else mix_kernels(attention, self.bias)

    def _costs_of(self, padded: tuple[int, int, int, int]) -> dict[str, Cost]:
        return mixture_costs(self.geometry, padded, self.out_channels, self.num_kernels)

    def extra_repr(self) -> str:
        """The convolution's arguments and the number of kernels."""
        return f"{super().extra_repr()}, num_kernels={self.num_kernels}"


class KernelMixture2d(_Mixture, DynamicConv2d):
    """A convolution with W(x) = sum_k a_k(x) W_k, its bias mixed alike; how a_k(x) comes about is the family's.

    ``weight`` holds the K kernels, ``(K, C_out, C_in / groups, k_h, k_w)``, and ``bias`` the biases, ``(K, C_out)``.
    `from_conv` and a static state dict set their mean, and leave how they differ: equal kernels would get equal
    gradients for ever.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            As for `torch.nn.Conv2d`.

    Raises:
        ValueError: an argument is out of range or does not fit.
    """

    branch: Any

    def _stacks(self, config: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self._count(config),), (self._count(config),)

    @staticmethod
    @abstractmethod
    def _count(config: Any) -> int:
        """K."""

    def _build(self, config: Any, device: torch.device, dtype: torch.dtype) -> None:
        self.num_kernels = self._count(config)
        self.context_norm = make_context_norm(config.context_norm, self.in_channels, device, dtype)

    @abstractmethod
    def _logits(self, context: Tensor) -> Tensor:
        """``(B, K)`` of the averaged and normalised input ``(B, C_in)``."""

    def _checked_logits(self, x: Tensor, *, track: bool) -> Tensor:
        with full_precision(x.device):
            context = pool_context(x, 1, context_dtype(x.dtype))
            return self._logits(normalise(self.context_norm, context, track=track))


class DeployedMixture2d(_Mixture, DeployedConv2d):
    """A kernel mixture as it is shipped. Its branch has one head, ``attention``, which holds the temperature.

    Args:
        layer: The layer that it is made of.
        branch: Its branch.
        activation: From logits to weights: ``sigmoid``, or ``softmax`` over the kernels.
    """

    def __init__(
        self, layer: KernelMixture2d, branch: DeployedBranch, activation: Literal["sigmoid", "softmax"]
    ) -> None:
        super().__init__(layer)
        self.num_kernels, self.branch, self.activation = layer.num_kernels, branch, activation
        self._settle(layer)

    def _checked_logits(self, x: Tensor, *, track: bool) -> Tensor:
        logits: Tensor = self.branch(pool_context(x, 1, context_dtype(x.dtype)))["attention"]
        return logits

    def _attention(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits) if self.activation == "sigmoid" else torch.softmax(logits, dim=1)

    def _mixed_bias(self, attention: Tensor) -> Tensor | None:
        mixed = super()._mixed_bias(attention)
        if self.shift is None:
            return mixed
        return self.shift if mixed is None else mixed + self.shift
