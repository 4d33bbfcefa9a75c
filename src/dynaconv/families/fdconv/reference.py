"""The equation of FDConv, with one explicit kernel per sample. Slow; it defines the result of every fast algorithm.

Reference: Chen et al., CVPR 2025, arXiv:2503.18783, and its published code, commit bf7a33d.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dynaconv.families.fdconv.coefficients import FDConvCoefficients
from dynaconv.ops.geometry import Geometry


def reference_fdconv_kernel(
    coefficients: FDConvCoefficients,
    local: Tensor | None,
    spectra: Tensor,
    groups: Tensor,
    geometry: Geometry,
    sample: int,
) -> Tensor:
    """Return W(x) of one sample: W[o, c, i, j] = spatial_ij channel_c filter_o local_ocij V[o, c, i, j].

    Row o k + i and column c k + j of the image of V, summed over the spectra, have the spectrum whose entry (u, v) is
    that of the stored spectrum times the gain of its group.

    Args:
        coefficients: Gates, and the gains ``(B, r * K)``.
        local: Gates of single elements, ``(B, C_out, C_in, k_h, k_w)``, or None.
        spectra: ``(r, C_out * k_h, F, 2)``, real and imaginary part.
        groups: Group of each frequency, ``(C_out * k_h, F)``.
        geometry: Kernel size; one group.
        sample: Index of the sample.

    Returns:
        ``(C_out, C_in, k_h, k_w)``.
    """
    height, width = geometry.kernel_size
    gains = coefficients.kernel[sample].reshape(len(spectra), -1)
    weighted = torch.zeros_like(torch.view_as_complex(spectra[0].contiguous()))
    for stored, gain in zip(spectra, gains, strict=True):
        weighted = weighted + torch.view_as_complex(stored.contiguous()) * gain[groups.long()]
    out_channels, in_channels = len(coefficients.filter[sample]), len(coefficients.channel[sample])
    image = torch.fft.irfft2(weighted, s=(out_channels * height, in_channels * width))
    rows = []
    for out in range(out_channels):
        block = image[out * height : (out + 1) * height].reshape(height, in_channels, width).transpose(0, 1)
        block = block * coefficients.channel[sample][:, None, None] * coefficients.filter[sample, out]
        if coefficients.spatial is not None:
            block = block * coefficients.spatial[sample]
        rows.append(block if local is None else block * local[sample, out])
    return torch.stack(rows)


def reference_low_pass(x: Tensor, divisor: int) -> Tensor:
    """Return ``x``, ``(B, C, H, W)``, without the frequencies that the filter removes.

    The filter keeps frequencies below 0.5 / divisor, as a mask of 64 x 33 entries that is resized to the spectrum.
    """
    height, width = x.shape[2:]
    rows, columns = (torch.fft.fftfreq(64).abs(), torch.fft.rfftfreq(64))
    distance = torch.maximum(rows[:, None], columns)
    mask = (distance < torch.tensor(0.5 / divisor + 1e-8, device=distance.device)).to(x.dtype)
    resized = F.interpolate(mask[None, None], size=(height, width // 2 + 1), mode="nearest")
    low: Tensor = torch.fft.irfft2(torch.fft.rfft2(x) * resized, s=(height, width))
    return low


def reference_bands(x: Tensor, maps: Sequence[Tensor], divisors: Sequence[int]) -> Tensor:
    """Return the sum of the bands of ``x``, each times its map.

    Args:
        x: ``(B, C, H, W)``.
        maps: Map of each band, ``(B, g, H, W)``; channel c has map c // (C / g). The rest, below the last divisor, has
            the map 1 unless there is one map more than divisors.
        divisors: Ascending divisors of `reference_low_pass`.
    """
    total, higher = torch.zeros_like(x), x
    for number, each in enumerate(maps):
        lower = reference_low_pass(x, divisors[number]) if number < len(divisors) else torch.zeros_like(x)
        total = total + each.repeat_interleave(x.shape[1] // each.shape[1], 1) * (higher - lower)
        higher = lower
    return total if len(maps) > len(divisors) else total + higher


def reference_fdconv(
    x: Tensor,
    coefficients: FDConvCoefficients,
    local: Tensor | None,
    spectra: Tensor,
    groups: Tensor,
    geometry: Geometry,
) -> Tensor:
    """Convolve each sample of the modulated input with its own `reference_fdconv_kernel`.

    Args:
        x: Modulated input, ``(B, C_in, H, W)``, from `reference_bands`.
        coefficients, local, spectra, groups, geometry: As for `reference_fdconv_kernel`.

    Returns:
        ``(B, C_out, H_out, W_out)``, without a bias.
    """
    _, stride, padding, dilation, *_ = geometry
    outs = []
    for sample in range(x.shape[0]):
        kernel = reference_fdconv_kernel(coefficients, local, spectra, groups, geometry, sample)
        outs.append(F.conv2d(x[sample : sample + 1], kernel, None, stride, padding, dilation))
    return torch.cat(outs)
