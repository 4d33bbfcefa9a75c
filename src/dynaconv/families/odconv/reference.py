"""The equation of ODConv, with one explicit kernel per sample. Slow; it defines the result of every fast algorithm.

Reference: Li et al., ICLR 2022, arXiv:2209.07947v1 (openreview DmpCfq6Mg39).
"""

import torch
from torch import Tensor

from dynaconv.families.odconv.attention import ODConvCoefficients
from dynaconv.ops.geometry import Geometry, over_pixels
from dynaconv.ops.shared import static_conv


def reference_odconv_kernel(
    logits: ODConvCoefficients, kernels: Tensor, temperature: Tensor, geometry: Geometry, sample: int
) -> Tensor:
    """Return W(x) of one sample: W[o, i, t] = filter_o channel_i spatial_t sum_k kernel_k W_k[o, i, t].

    With logits t and a temperature T, the first three are sigmoid(t / T), the last exp(t_k / T) / sum_j exp(t_j / T).
    In a grouped convolution, i runs over the input channels of the group of o.

    Returns:
        ``(C_out, C_in / groups, *k)``.
    """
    num_kernels, out_channels, per_group = kernels.shape[:3]
    if logits.kernel is None:
        weights = torch.ones(num_kernels, dtype=kernels.dtype, device=kernels.device)
    else:
        exponentials = torch.exp((logits.kernel[sample] - logits.kernel[sample].max()) / temperature)
        weights = exponentials / exponentials.sum()
    total = torch.zeros_like(kernels[0])
    for number, kernel in enumerate(kernels):
        total = total + weights[number] * kernel
    if logits.spatial is not None:
        total = total * torch.sigmoid(logits.spatial[sample] / temperature)
    channel = torch.sigmoid(logits.channel[sample] / temperature)
    rows = []
    for out in range(out_channels):
        start = (out * geometry.groups // out_channels) * per_group
        row = total[out] * over_pixels(channel[start : start + per_group], geometry.dims)
        if logits.filter is not None:
            row = row * torch.sigmoid(logits.filter[sample, out] / temperature)
        rows.append(row)
    return torch.stack(rows)


def reference_odconv(
    x: Tensor, logits: ODConvCoefficients, kernels: Tensor, temperature: Tensor, geometry: Geometry
) -> Tensor:
    """Convolve each sample with its own `reference_odconv_kernel`.

    Args:
        x: Input, ``(B, C_in, *sizes)``.
        logits: Output of the branch, before temperature, sigmoids and softmax.
        kernels: ``(K, C_out, C_in / groups, *k)``.
        temperature: T > 0, a scalar tensor.
        geometry: Stride, padding, dilation and groups.

    Returns:
        ``(B, C_out, *out_sizes)``, without a bias.
    """
    outs = []
    for sample in range(x.shape[0]):
        kernel = reference_odconv_kernel(logits, kernels, temperature, geometry, sample)
        outs.append(static_conv(x[sample : sample + 1], kernel, geometry))
    return torch.cat(outs)
