"""What `FDConv2d` and its deployed form share: from logits to the kernel of each sample and to the output."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from dynaconv.families.contract.affine import add_bias
from dynaconv.families.contract.convolution import DynamicConvolution, is_channels_last
from dynaconv.families.fdconv.bands import BandModulation
from dynaconv.families.fdconv.branch import LocalLogits
from dynaconv.families.fdconv.coefficients import FDConvCoefficients, fdconv_coefficients, gate
from dynaconv.families.fdconv.cost import band_macs, fdconv_costs, transform_macs
from dynaconv.families.fdconv.kernel import gated_kernel
from dynaconv.families.fdconv.spectrum import Shape
from dynaconv.ops import Cost, full_precision
from dynaconv.ops.per_sample import grouped_kernel, matmul_per_sample

MAX_KERNELS = 8
"""Largest number of kernels, each as large as the static one, that a deployed layer stores in place of spectra."""


def deployed_assembly(count: int) -> str:
    """Return how a deployed layer with ``count`` gains forms the static part of a sample's kernel, for messages."""
    return f"deployed as {count} kernels" if count <= MAX_KERNELS else "deployed with one inverse transform a sample"


def in_layout(kernels: Tensor, stored: Tensor) -> Tensor:
    """Return one or K kernels contiguous, or in channels_last format if the tensor that stores the kernel is."""
    if not is_channels_last(stored, 2):
        return kernels.contiguous()
    flat = kernels.flatten(0, -4).contiguous(memory_format=torch.channels_last)
    return flat.reshape(kernels.shape)


class FDConvolution(DynamicConvolution):
    """Runs FDConv for given logits and a given static kernel, whose spectrum the gains weight."""

    num_kernels: int
    bands: BandModulation | None
    branch: Any
    _functions: ClassVar = {"kernel": matmul_per_sample, "grouped": grouped_kernel}
    _gate: str
    _gate_limit: float
    _local_gate: str | None

    @property
    def _shape(self) -> Shape:
        """Shape of the static kernel."""
        height, width = self.kernel_size
        return (self.out_channels, self.in_channels, height, width)

    @abstractmethod
    def _normalised(self, context: Tensor, *, track: bool) -> Tensor:
        """Return a context, ``(B, F)``, after the context norm."""

    @abstractmethod
    def _heads_of(self, context: Tensor, *, track: bool) -> dict[str, Tensor]:
        """Return the logits of each coefficient, ``(B, N)``, divided by their temperature."""

    @abstractmethod
    def _local_logits(self) -> LocalLogits | None:
        """Return the module that computes the logits of single kernel elements."""

    @abstractmethod
    def _static_part(self, gains: Tensor) -> Tensor:
        """Return the static kernel with its frequencies times the gains ``(B, N)``, ``(B, C_out, C_in, k_h, k_w)``."""

    def _gates_and_local(
        self, x: Tensor, context: Tensor | None, mask: Tensor | None, *, track: bool
    ) -> tuple[FDConvCoefficients, Tensor | None]:
        with full_precision(x.device):
            read = self._normalised(self._context(x, context, mask), track=track)
            # The local gate of a kernel element reads its neighbours among the input's channels, which a context that
            # is given does not have.
            local = self._local_of(read if context is None else self._pooled(x, None))
            return self._from_logits(self._heads_of(read, track=track)), local

    def _from_logits(self, heads: dict[str, Tensor]) -> FDConvCoefficients:
        return fdconv_coefficients(self._named(heads), self._gate, self._gate_limit)

    def _named(self, heads: dict[str, Tensor]) -> FDConvCoefficients:
        if "spatial" in heads:
            heads = {**heads, "spatial": heads["spatial"].reshape(-1, *self.kernel_size)}
        return FDConvCoefficients(**heads)

    def _local_of(self, context: Tensor) -> Tensor | None:
        module = self._local_logits()
        if module is None or self._local_gate is None:
            return None
        # Without the limit, which multiplies a smaller tensor in `gated_kernel`.
        gates = gate(module(context), self._local_gate, 1.0)
        shape = (gates.shape[0], self.out_channels, *self.kernel_size, self.in_channels)
        return gates.reshape(shape).permute(0, 1, 4, 2, 3)

    @property
    def _local_limit(self) -> float:
        return self._gate_limit if self._local_gate == "sigmoid" else 1.0

    def _mask_refusal(self) -> str | None:
        if self.bands is not None:
            return "modulates bands of the whole feature map, padding included; use bands=() for masks"
        return super()._mask_refusal()

    def logits(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> FDConvCoefficients:
        """The logits of gates and gains for ``x``, ``(B, C_in, H, W)``, divided by their temperatures."""
        context = self._context(x, *self._checked(x, context, mask))
        with full_precision(x.device):
            return self._named(self._heads_of(self._normalised(context, track=False), track=False))

    def coefficients(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> FDConvCoefficients:
        """Gates and gains of each sample of ``x``, in float32 (float64 for float64 inputs)."""
        return self._gates_and_local(x, *self._checked(x, context, mask), track=False)[0]

    def local_gates(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor | None:
        """The gate of each element of each sample's kernel, ``(B, C_out, C_in, k_h, k_w)``; None without them."""
        local = self._gates_and_local(x, *self._checked(x, context, mask), track=False)[1]
        return None if local is None else local * self._local_limit

    def kernel(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """W(x) of each sample, ``(B, C_out, C_in, k_h, k_w)``; it is applied to `modulate` of x."""
        return self._kernel_of(x, *self._checked(x, context, mask), track=False)

    def modulate(self, x: Tensor) -> Tensor:
        """The input after band modulation, ``(B, C_in, H, W)``; x itself if the layer modulates no bands."""
        x = super().modulate(x)
        return x if self.bands is None else self.bands(x)

    def _kernel_of(self, x: Tensor, context: Tensor | None, mask: Tensor | None, *, track: bool) -> Tensor:
        coefficients, local = self._gates_and_local(x, context, mask, track=track)
        with full_precision(x.device):
            kernel = gated_kernel(self._static_part(coefficients.kernel), coefficients, local, self._local_limit)
        return kernel.to(self.stored_kernel.dtype)

    def _compute(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        kernel = self._kernel_of(x, context, mask, track=True)
        padded = self._padded(self.modulate(x))
        return add_bias(self._function(padded)(padded, kernel, self.geometry), self.bias)

    def published_macs(self, input_shape: tuple[int, int, int, int]) -> int:
        """Multiply-adds for an input ``(B, C_in, H, W)`` as papers count them.

        They are those of the static convolution, the branch, the gates, one inverse Fourier transform of the kernel and
        the band modulation by Fourier transforms.
        """
        batch, channels, height, width = input_shape
        out_h, out_w = self.geometry.output_size(*self._padded(torch.empty(input_shape, device="meta")).shape[2:])
        weights = self.out_channels * channels * self.geometry.num_taps
        hidden, heads = len(self.branch.squeeze.weight), self.branch.heads
        features = channels if self.context_features is None else self.context_features
        branch = hidden * (features + sum(len(head.weight) for head in heads.values()))
        local = self._local_logits()
        total = out_h * out_w * weights + branch + transform_macs(weights) + 4 * weights
        total += 0 if local is None else weights * local.conv.weight.shape[-1]
        if self.bands is not None:
            maps, taps = self.bands.maps, self.bands.maps[0].weight[0, 0].numel()  # type: ignore[index]
            total += band_macs(channels, height, width, len(self.bands.bands), self.bands.num_maps * len(maps), taps)
        return batch * round(total)

    def _costs_of(self, padded: tuple[int, ...]) -> dict[str, Cost]:
        return fdconv_costs(self.geometry, padded, self.out_channels)

    def extra_repr(self) -> str:
        """The convolution's arguments, the number of kernels and how they are formed."""
        bands = () if self.bands is None else self.bands.bands
        parts = f"num_kernels={self.num_kernels}, hidden_channels={len(self.branch.squeeze.weight)}, bands={bands}"
        return f"{super().extra_repr()}, {parts}, {self.assembly}"

    @property
    @abstractmethod
    def assembly(self) -> str:
        """How the static part of each sample's kernel is formed, in words."""
