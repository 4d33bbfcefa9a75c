"""The equation of a convolution with squeeze-and-excitation, with one explicit kernel per sample.

Reference: Hu et al., CVPR 2018, arXiv:1709.01507v4.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dynaconv.ops.geometry import Geometry, over_pixels
from dynaconv.ops.shared import static_conv


class ExciteWeights(NamedTuple):
    """The two linear maps between the averaged output and the scales."""

    squeeze: Tensor
    """F1, ``(R, C_out)``."""
    squeeze_bias: Tensor
    """``(R,)``."""
    expand: Tensor
    """F2, ``(C_out, R)``."""
    expand_bias: Tensor
    """``(C_out,)``."""


def reference_squeeze_excite_kernel(
    sample: Tensor, weight: Tensor, bias: Tensor | None, excite: ExciteWeights, geometry: Geometry
) -> tuple[Tensor, Tensor | None]:
    """Return kernel and bias of one sample: diag(s) W and s * b with s = sigmoid(F2 relu(F1 z + b1) + b2).

    z is the average over the pixels of ``conv(sample) + bias``.

    Args:
        sample: ``(C_in, *sizes)``.
        weight: Static kernel, ``(C_out, C_in / groups, *k)``.
        bias: ``(C_out,)`` or None.
        excite: F1 and F2 with their biases.
        geometry: Stride, padding, dilation and groups.
    """
    output = static_conv(sample[None], weight, geometry, bias)[0]
    averages = output.flatten(1).mean(1)
    hidden = torch.relu(excite.squeeze @ averages + excite.squeeze_bias)
    scale = torch.sigmoid(excite.expand @ hidden + excite.expand_bias)
    return over_pixels(scale, geometry.dims + 1) * weight, None if bias is None else scale * bias


def reference_squeeze_excite(
    x: Tensor, weight: Tensor, bias: Tensor | None, excite: ExciteWeights, geometry: Geometry
) -> Tensor:
    """Convolve each sample with its own `reference_squeeze_excite_kernel`.

    Args:
        x: Input, ``(B, C_in, *sizes)``.
        weight, bias, excite, geometry: As for `reference_squeeze_excite_kernel`.

    Returns:
        ``(B, C_out, *out_sizes)``, including the scaled bias.
    """
    outs = []
    for sample in x:
        kernel, scaled_bias = reference_squeeze_excite_kernel(sample, weight, bias, excite, geometry)
        outs.append(static_conv(sample[None], kernel, geometry, scaled_bias))
    return torch.cat(outs)
