"""The equation of CondConv, with one explicit kernel per sample. `dynaconv.ops.mixture` has the fast algorithms.

Reference: Yang et al., NeurIPS 2019, arXiv:1904.04971v3.
"""

import torch
from torch import Tensor

from dynaconv.ops.geometry import Geometry
from dynaconv.ops.shared import static_conv


def reference_condconv_kernel(logits: Tensor, kernels: Tensor, sample: int, *, residual: bool = False) -> Tensor:
    """Return W(x) of one sample, sum_k sigmoid(t_k) W_k; for biases ``(K, C_out)``, their weighted sum ``(C_out,)``.

    With ``residual``, the first of 1 + K kernels is W0, and W(x) = W0 + sum_k sigmoid(t_k) dW_k.
    """
    total = kernels[0] if residual else torch.zeros_like(kernels[0])
    for number, kernel in enumerate(kernels[1:] if residual else kernels):
        total = total + torch.sigmoid(logits[sample, number]) * kernel
    return total


def reference_condconv(
    x: Tensor, logits: Tensor, kernels: Tensor, biases: Tensor | None, geometry: Geometry, *, residual: bool = False
) -> Tensor:
    """Convolve each sample with its own `reference_condconv_kernel`.

    Args:
        x: Input, ``(B, C_in, *sizes)``.
        logits: Output of the routing, before the sigmoid, ``(B, K)``.
        kernels: The experts, ``(K, C_out, C_in / groups, *k)``.
        biases: ``(K, C_out)``, mixed like the kernels, or None.
        geometry: Stride, padding, dilation and groups.
        residual: Whether the first of 1 + K kernels and biases has weight 1.

    Returns:
        ``(B, C_out, *out_sizes)``.
    """
    outs = []
    for sample in range(x.shape[0]):
        kernel = reference_condconv_kernel(logits, kernels, sample, residual=residual)
        bias = None if biases is None else reference_condconv_kernel(logits, biases, sample, residual=residual)
        outs.append(static_conv(x[sample : sample + 1], kernel, geometry, bias))
    return torch.cat(outs)
