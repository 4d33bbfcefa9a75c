"""The equation of CondConv, with one explicit kernel per sample. `dynaconv.ops.mixture` has the fast algorithms.

Reference: Yang et al., NeurIPS 2019, arXiv:1904.04971v3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dynaconv.ops.geometry import Geometry


def reference_condconv_kernel(logits: Tensor, kernels: Tensor, sample: int) -> Tensor:
    """Return W(x) of one sample, sum_k sigmoid(t_k) W_k; for biases ``(K, C_out)``, their weighted sum ``(C_out,)``."""
    total = torch.zeros_like(kernels[0])
    for number, kernel in enumerate(kernels):
        total = total + torch.sigmoid(logits[sample, number]) * kernel
    return total


def reference_condconv(x: Tensor, logits: Tensor, kernels: Tensor, biases: Tensor | None, geometry: Geometry) -> Tensor:
    """Convolve each sample with its own `reference_condconv_kernel`.

    Args:
        x: Input, ``(B, C_in, H, W)``.
        logits: Output of the routing, before the sigmoid, ``(B, K)``.
        kernels: The experts, ``(K, C_out, C_in / groups, k_h, k_w)``.
        biases: ``(K, C_out)``, mixed like the kernels, or None.
        geometry: Stride, padding, dilation and groups.

    Returns:
        ``(B, C_out, H_out, W_out)``.
    """
    _, stride, padding, dilation, groups = geometry
    outs = []
    for sample in range(x.shape[0]):
        kernel = reference_condconv_kernel(logits, kernels, sample)
        bias = None if biases is None else reference_condconv_kernel(logits, biases, sample)
        outs.append(F.conv2d(x[sample : sample + 1], kernel, bias, stride, padding, dilation, groups))
    return torch.cat(outs)
