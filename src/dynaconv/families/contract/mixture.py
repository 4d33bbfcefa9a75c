"""Base classes of CondConv and DY-Conv: K kernels and biases, summed with weights that depend on the input."""

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
    """Coefficients of a kernel mixture."""

    attention: Tensor
    """Weight of each kernel, ``(B, K)``, in float32 (float64 for float64 inputs)."""


class _Mixture(DynamicConvolution):
    """Runs W(x) = sum_k a_k(x) W_k, with the bias mixed in the same way, for given weights a_k(x)."""

    num_kernels: int
    _functions: ClassVar = {"kernel": kernel_mixture, "mixed": mixed_mixture, "grouped": grouped_mixture}

    @abstractmethod
    def _checked_logits(self, x: Tensor, *, track: bool) -> Tensor:
        """Return the logits ``(B, K)`` of a checked input; with ``track``, train mode updates running statistics."""

    @abstractmethod
    def _attention(self, logits: Tensor) -> Tensor:
        """Convert logits to weights of the kernels, ``(B, K)``."""

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of the attention, ``(B, K)``, for ``x``, ``(B, C_in, H, W)``."""
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
        """Return the bias of each sample, ``(B, C_out)``, or one for all samples, ``(C_out,)``."""
        return None if self.bias is None else mix_kernels(attention, self.bias)

    def _costs_of(self, padded: tuple[int, int, int, int]) -> dict[str, Cost]:
        return mixture_costs(self.geometry, padded, self.out_channels, self.num_kernels)

    def extra_repr(self) -> str:
        """The convolution's arguments and the number of kernels."""
        return f"{super().extra_repr()}, num_kernels={self.num_kernels}"


class KernelMixture2d(_Mixture, DynamicConv2d):
    """A convolution with W(x) = sum_k a_k(x) W_k and a bias mixed in the same way; the family defines a_k(x).

    ``weight`` holds the K kernels, ``(K, C_out, C_in / groups, k_h, k_w)``, and ``bias`` the biases, ``(K, C_out)``.
    `from_conv` and a static state dict set the mean of the kernels and keep their differences, because equal kernels
    would always get equal gradients.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            As for `torch.nn.Conv2d`.

    Raises:
        ValueError: an argument is out of range or does not match the others.
    """

    branch: Any

    def _leading_shapes(self, config: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self._kernel_count(config),), (self._kernel_count(config),)

    @staticmethod
    @abstractmethod
    def _kernel_count(config: Any) -> int:
        """Return K."""

    def _build(self, config: Any, device: torch.device, dtype: torch.dtype) -> None:
        self.num_kernels = self._kernel_count(config)
        self.context_norm = make_context_norm(config.context_norm, self.in_channels, device, dtype)

    @abstractmethod
    def _logits(self, context: Tensor) -> Tensor:
        """Return the logits ``(B, K)`` of the averaged and normalised input ``(B, C_in)``."""

    def _checked_logits(self, x: Tensor, *, track: bool) -> Tensor:
        with full_precision(x.device):
            context = pool_context(x, 1, context_dtype(x.dtype))
            return self._logits(normalise(self.context_norm, context, track=track))


class DeployedMixture2d(_Mixture, DeployedConv2d):
    """Deployed form of a kernel mixture. Its branch has one head, ``attention``, which includes the temperature.

    Args:
        layer: The original layer.
        branch: The deployed form of the layer's branch.
        activation: From logits to weights: ``sigmoid``, or ``softmax`` over the kernels.
    """

    def __init__(
        self, layer: KernelMixture2d, branch: DeployedBranch, activation: Literal["sigmoid", "softmax"]
    ) -> None:
        super().__init__(layer)
        self.num_kernels, self.branch, self.activation = layer.num_kernels, branch, activation
        self._adopt_settings(layer)

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
