"""The equation of DY-Conv, with one explicit kernel per sample. `dynaconv.ops.mixture` has the fast algorithms.

Reference: Chen et al., CVPR 2020, arXiv:1912.03458v2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dynaconv.ops.geometry import Geometry


def reference_dyconv_kernel(logits: Tensor, kernels: Tensor, temperature: Tensor, sample: int) -> Tensor:
    """Return W(x) of one sample, sum_k pi_k W_k with pi_k = exp(t_k / T) / sum_j exp(t_j / T); also for biases."""
    exponentials = torch.exp((logits[sample] - logits[sample].max()) / temperature)
    total = torch.zeros_like(kernels[0])
    for number, kernel in enumerate(kernels):
        total = total + exponentials[number] / exponentials.sum() * kernel
    return total


def reference_dyconv(
    x: Tensor, logits: Tensor, kernels: Tensor, biases: Tensor | None, temperature: Tensor, geometry: Geometry
) -> Tensor:
    """Convolve each sample with its own `reference_dyconv_kernel`.

    Args:
        x: Input, ``(B, C_in, H, W)``.
        logits: Output of the branch, before the softmax, ``(B, K)``.
        kernels: ``(K, C_out, C_in / groups, k_h, k_w)``.
        biases: ``(K, C_out)``, mixed like the kernels, or None.
        temperature: T > 0, a scalar tensor; large values make the kernels' weights equal.
        geometry: Stride, padding, dilation and groups.

    Returns:
        ``(B, C_out, H_out, W_out)``.
    """
    _, stride, padding, dilation, groups = geometry
    outs = []
    for sample in range(x.shape[0]):
        kernel = reference_dyconv_kernel(logits, kernels, temperature, sample)
        bias = None if biases is None else reference_dyconv_kernel(logits, biases, temperature, sample)
        outs.append(F.conv2d(x[sample : sample + 1], kernel, bias, stride, padding, dilation, groups))
    return torch.cat(outs)
