"""The equation of DY-Conv, with one explicit kernel per sample. `dynaconv.ops.mixture` has the fast algorithms.

Reference: Chen et al., CVPR 2020, arXiv:1912.03458v2.
"""

import torch
from torch import Tensor

from dynaconv.ops.geometry import Geometry
from dynaconv.ops.shared import static_conv


def reference_dyconv_kernel(
    logits: Tensor, kernels: Tensor, temperature: Tensor, sample: int, *, residual: bool = False
) -> Tensor:
    """Return W(x) of one sample, sum_k pi_k W_k with pi_k = exp(t_k / T) / sum_j exp(t_j / T); also for biases.

    With ``residual``, the first of 1 + K kernels is W0, and W(x) = W0 + sum_k pi_k dW_k.
    """
    exponentials = torch.exp((logits[sample] - logits[sample].max()) / temperature)
    total = kernels[0] if residual else torch.zeros_like(kernels[0])
    for number, kernel in enumerate(kernels[1:] if residual else kernels):
        total = total + exponentials[number] / exponentials.sum() * kernel
    return total


def reference_dyconv(
    x: Tensor,
    logits: Tensor,
    kernels: Tensor,
    biases: Tensor | None,
    temperature: Tensor,
    geometry: Geometry,
    *,
    residual: bool = False,
) -> Tensor:
    """Convolve each sample with its own `reference_dyconv_kernel`.

    Args:
        x: Input, ``(B, C_in, *sizes)``.
        logits: Output of the branch, before the softmax, ``(B, K)``.
        kernels: ``(K, C_out, C_in / groups, *k)``.
        biases: ``(K, C_out)``, mixed like the kernels, or None.
        temperature: T > 0, a scalar tensor; large values make the kernels' weights equal.
        geometry: Stride, padding, dilation and groups.
        residual: Whether the first of 1 + K kernels and biases has weight 1.

    Returns:
        ``(B, C_out, *out_sizes)``.
    """
    outs = []
    for sample in range(x.shape[0]):
        kernel = reference_dyconv_kernel(logits, kernels, temperature, sample, residual=residual)
        bias = (
            None if biases is None else reference_dyconv_kernel(logits, biases, temperature, sample, residual=residual)
        )
        outs.append(static_conv(x[sample : sample + 1], kernel, geometry, bias))
    return torch.cat(outs)
