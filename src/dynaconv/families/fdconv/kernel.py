"""The kernel of each sample in FDConv."""

import torch
from torch import Tensor

from dynaconv.families.fdconv.coefficients import FDConvCoefficients
from dynaconv.families.fdconv.products import inverse_products
from dynaconv.families.fdconv.spectrum import Shape, image_kernel, image_size, spectrum_kernel, spread_gains
from dynaconv.ops import is_exporting


def transformed_kernel(gains: Tensor, spectra: Tensor, groups: Tensor, order: Tensor, shape: Shape) -> Tensor:
    """Return the kernel whose spectrum is the stored one, each frequency times the gain of its group.

    Takes one inverse transform per sample.

    Args:
        gains: ``(B, r * K)``.
        spectra: ``(r, C_out * k_h, F, 2)``, whose kernels are added.
        groups, order: As for `spread_gains`.
        shape: C_out, C_in, k_h, k_w.

    Returns:
        ``(B, C_out, C_in, k_h, k_w)``.
    """
    each = spread_gains(gains.reshape(gains.shape[0], len(spectra), gains.shape[1] // len(spectra)), groups, order)
    if is_exporting():
        # Runtimes multiply by the stored real and imaginary parts faster if these are two tensors.
        real, imaginary = (_total(each * spectra[..., part]) for part in (0, 1))
        return image_kernel(inverse_products(real, imaginary, *image_size(shape)), shape)
    return spectrum_kernel(_total(each.unsqueeze(-1) * spectra), shape)


def _total(weighted: Tensor) -> Tensor:
    return weighted[:, 0] if weighted.shape[1] == 1 else weighted.sum(1)


def group_kernels(spectra: Tensor, groups: Tensor, count: int, shape: Shape) -> Tensor:
    """Return the kernel of each group of frequencies, ``(r * K, C_out, C_in, k_h, k_w)``.

    `transformed_kernel` is linear in the gains: these kernels, mixed with the gains, give the same.
    """
    kernels = [
        spectrum_kernel(spectrum * (groups == group).unsqueeze(-1), shape)
        for spectrum in spectra
        for group in range(count)
    ]
    return torch.stack(kernels)


def gated_kernel(kernel: Tensor, coefficients: FDConvCoefficients, local: Tensor | None, limit: float) -> Tensor:
    """Return W(x) = spatial * channel * filter * limit * local * kernel, each gate along its axes.

    Args:
        kernel: ``(B, C_out, C_in, k_h, k_w)``.
        coefficients: Gates.
        local: Gates of single elements, in the shape of the kernel, divided by their limit; None for none.
        limit: That limit.
    """
    # The product of the small gates is formed first; each further product reads and writes kernels of all samples.
    if coefficients.spatial is None:
        inner = coefficients.channel[..., None, None]
    else:
        # In the order of the kernel's image, which the inverse transform leaves in memory.
        rows = coefficients.channel[:, None, :, None] * coefficients.spatial.unsqueeze(2)  # (B, k_h, C_in, k_w)
        inner = rows.transpose(1, 2)
    gated = kernel
    if local is not None:
        gated, inner = kernel * local, inner * limit
    return gated * inner[:, None] * coefficients.filter[..., None, None, None]
