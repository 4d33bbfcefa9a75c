"""Mixture of kernels in training as products of patches with the kernels, for few pixels and for large kernels."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dynaconv.ops.eager import not_a_view
from dynaconv.ops.geometry import Geometry
from dynaconv.ops.mixture.attentions import Attentions, second_gradients
from dynaconv.ops.mixture.operands import operator_coefficients, operator_sizes

_CHUNK = 2**23
"""Numbers in the patches, and in the mixed kernels, of the samples that are computed together: 32 MiB."""
_SHARED_PIXELS = 64
"""Output pixels for which a product with another kernel costs as much as a mixed kernel for each sample, about."""


def has_few_pixels(x: Tensor, kernels: Tensor, geometry: Geometry) -> bool:
    """Whether patches, one set for each kernel, have fewer numbers than W(x) and cost less than mixed kernels."""
    pixels = math.prod(geometry.output_size(*x.shape[2:]))
    return len(kernels) * pixels <= kernels.shape[1] and not _mixes(pixels, len(kernels))


def _mixes(pixels: int, num_kernels: int) -> bool:
    """Whether kernels are mixed for each sample; else one product has all of them."""
    return (num_kernels - 1) * pixels > _SHARED_PIXELS


def patches_mixture(x: Tensor, attentions: Attentions, kernels: Tensor, geometry: Geometry) -> Tensor:
    """Convolve each sample with its mixture of kernels; the native library must be loaded.

    The patches of the input are multiplied by the coefficients of tap and channel. With few pixels or a single kernel
    they are multiplied by those of the kernels too, and a single matrix product with all kernels computes all samples;
    else each sample has a product with its mixed kernel. The backward pass computes patches and mixed kernels again.

    Args:
        x: Input, ``(B, C_in, H, W)``, channels_last.
        attentions: Coefficients of the samples.
        kernels: ``(K, C_out, C_in, k_h, k_w)``.
        geometry: Stride, padding and dilation.

    Returns:
        ``(B, C_out, H_out, W_out)``, channels_last.
    """
    out: Tensor = _CompiledPatches.apply(x, kernels, geometry, *attentions)
    return out


class _Products:
    """Patches and kernels of some samples, and their product."""

    def __init__(self, x: Tensor, kernels: Tensor, geometry: Geometry, attentions: Sequence[Tensor | None]) -> None:
        attention, channel, spatial, _ = attentions
        assert attention is not None
        self.x, self.kernels, self.attention, self.sizes = x, kernels, attention, operator_sizes(geometry)
        self.pixels = math.prod(geometry.output_size(*x.shape[2:]))
        self.mixes = mixes = _mixes(self.pixels, len(kernels))
        self.coefficients = operator_coefficients((attention, channel, spatial, None), kernels)
        if mixes:
            # The mixed kernels have those of the kernels.
            self.coefficients[0] = attention.new_ones(len(x), 1)
        # Kernels in the order of a patch, first or after the output channels.
        order = (0, 1, 3, 4, 2) if mixes else (1, 0, 3, 4, 2)
        self.matrix = kernels.permute(order).reshape(len(kernels) if mixes else kernels.shape[1], -1)
        self.columns = self.matrix.shape[1] // (kernels.shape[1] if mixes else 1)

    def parts(self) -> Iterator[slice]:
        """Return the samples that are computed together."""
        per_sample = max(self.pixels * self.columns, self.matrix.shape[1] if self.mixes else 0)
        step = max(_CHUNK // per_sample, 1)
        return (slice(first, first + step) for first in range(0, len(self.x), step))

    def patches(self, part: slice) -> Tensor:
        """Return ``(b, pixels, columns)``."""
        coefficients = [each[part] for each in self.coefficients]
        rows: Tensor = torch.ops.dynaconv.mixture_patches(self.x[part], coefficients, self.sizes)
        return rows.view(-1, self.pixels, self.columns)

    def kernel(self, part: slice) -> Tensor:
        """Return the mixed kernels of samples, ``(b, C_out, columns)``."""
        return torch.mm(self.attention[part], self.matrix).view(-1, self.kernels.shape[1], self.columns)

    def multiply(self) -> Tensor:
        """Return the output without the coefficients of its channels, ``(B, pixels, C_out)``."""
        out = self.x.new_empty(len(self.x), self.pixels, self.kernels.shape[1])
        for part in self.parts():
            if self.mixes:
                torch.bmm(self.patches(part), self.kernel(part).mT, out=out[part])
            else:
                torch.mm(self.patches(part).flatten(0, 1), self.matrix.T, out=out[part].flatten(0, 1))
        return out

    def gradients(self, rows: Tensor, to_x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the gradients of kernels and coefficients, from that of the output; write that of x unless empty."""
        to_matrix, found = torch.zeros_like(self.matrix), [torch.empty_like(part) for part in self.coefficients]
        to_attention = torch.empty_like(self.attention) if self.mixes else found[0]
        for part in self.parts():
            patches, own = self.patches(part), rows[part]
            if self.mixes:
                to_kernel = torch.bmm(own.mT, patches).flatten(1)
                to_matrix.addmm_(self.attention[part].T, to_kernel)
                torch.mm(to_kernel, self.matrix.T, out=to_attention[part])
                to_patches = torch.bmm(own, self.kernel(part))
            else:
                own = own.flatten(0, 1)
                to_matrix.addmm_(own.T, patches.flatten(0, 1))
                to_patches = torch.mm(own, self.matrix)
            torch.ops.dynaconv.mixture_patches_gradients(
                self.x[part],
                [each[part] for each in self.coefficients],
                to_patches,
                to_x[part],
                [each[part] for each in found],
                self.sizes,
            )
        number, outputs, inputs, *taps = self.kernels.shape
        if self.mixes:
            to_kernels = to_matrix.view(number, outputs, *taps, inputs).permute(0, 1, 4, 2, 3)
        else:
            to_kernels = to_matrix.view(outputs, number, *taps, inputs).permute(1, 0, 4, 2, 3)
        return to_kernels, [to_attention, *found[1:]]


class _CompiledPatches(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernels: Tensor, geometry: Geometry, *attentions: Tensor | None) -> Tensor:
        filters = attentions[-1]
        plain = _Products(x, kernels, geometry, attentions).multiply()
        ctx.geometry = geometry
        # The gradient of the filters' coefficients is the only one that needs the product.
        ctx.save_for_backward(x, kernels, *attentions, None if filters is None else plain)
        out = plain if filters is None else plain * filters[:, None]
        return not_a_view(out.view(len(x), *geometry.output_size(*x.shape[2:]), -1).permute(0, 3, 1, 2))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, kernels, *attentions, plain = ctx.saved_tensors
        geometry, for_x = ctx.geometry, ctx.needs_input_grad[0]
        if torch.is_grad_enabled():
            to_x, to_kernels, *rest = second_gradients(x, kernels, geometry, attentions, gradient)
            return to_x, to_kernels, None, *rest
        rows, to_filters = gradient.permute(0, 2, 3, 1).flatten(1, 2), None
        if plain is not None:
            to_filters, rows = (rows * plain).sum(1), rows * attentions[-1][:, None]
        to_x = torch.empty_like(x) if for_x else x.new_empty(0)
        to_kernels, found = _Products(x, kernels, geometry, attentions).gradients(rows.contiguous(), to_x)
        to_attentions = (
            None if part is None else to[:, : part.shape[1]] for to, part in zip(found, attentions[:-1], strict=False)
        )
        return to_x if for_x else None, to_kernels, None, *to_attentions, to_filters
