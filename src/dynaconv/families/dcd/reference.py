"""The equations of DCD, with one explicit kernel per sample. Slow; they define the result of every fast algorithm.

Reference: Li et al., ICLR 2021, arXiv:2103.08756v1.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dynaconv.families.dcd.factors import DCDFactors, required
from dynaconv.ops.geometry import Geometry, over_pixels
from dynaconv.ops.shared import static_conv


def reference_dcd_kernel(factors: DCDFactors, geometry: Geometry, sample: int) -> Tensor:
    """Return W(x) of one sample: Lambda(x) W0 plus the dynamic residual, times S(x).

    Returns:
        ``(C_out, C_in / groups, *k)``.
    """
    kernel = _without_input_scale(factors, geometry, sample)
    if factors.input_scale is None:
        return kernel
    out_channels, per_group = kernel.shape[:2]
    columns = []
    for row in range(out_channels):
        start = row * geometry.groups // out_channels * per_group
        columns.append(factors.input_scale[sample, start : start + per_group])
    return kernel * over_pixels(torch.stack(columns), geometry.dims)


def _without_input_scale(factors: DCDFactors, geometry: Geometry, sample: int) -> Tensor:
    kernel = factors.weight
    if factors.scale is not None:
        kernel = over_pixels(factors.scale[sample], geometry.dims + 1) * kernel
    if factors.fusion is None:
        return kernel
    phi = factors.fusion[sample]
    if factors.form == "depthwise":
        return kernel + _depthwise_residual(factors, phi).reshape_as(kernel)
    return kernel + _blockwise_residual(factors, phi, geometry).reshape_as(kernel)


def reference_dcd(x: Tensor, factors: DCDFactors, geometry: Geometry) -> Tensor:
    """Convolve each sample with its own `reference_dcd_kernel`.

    Args:
        x: Input, ``(B, C_in, *sizes)``.
        factors: The factors of W(x).
        geometry: Stride, padding, dilation and groups.

    Returns:
        ``(B, C_out, *out_sizes)``, without a bias.
    """
    outs = []
    for sample in range(x.shape[0]):
        kernel = reference_dcd_kernel(factors, geometry, sample)
        outs.append(static_conv(x[sample : sample + 1], kernel, geometry))
    return torch.cat(outs)


def reference_normalised_dcd(
    x: Tensor,
    factors: DCDFactors,
    geometry: Geometry,
    norms: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]],
) -> Tensor:
    """DCD with batch norms and a skip connection around Phi: y = Lambda W0 x + P (BN2(Phi z) + z), z = BN1(Q^T x).

    The norms may use batch statistics, so the residual is applied to feature maps and its kernel is not formed.

    Args:
        x: Input, ``(B, C_in, *sizes)``.
        factors: Factors of form ``channel``.
        geometry: A convolution whose padding puts its centre tap on pixel (0, 0), as "same" padding does.
        norms: BN1 and BN2, maps of ``(B, blocks * L, *out_sizes)``.

    Returns:
        ``(B, C_out, *out_sizes)``, without a bias.
    """
    centre = (d * (k // 2) for d, k in zip(geometry.dilation, geometry.kernel_size, strict=True))
    assert geometry.padding == tuple(centre)
    assert not geometry.transposed
    p, q, phi = required(factors.p), required(factors.q), required(factors.fusion)
    blocks, latent = factors.num_blocks, q.shape[1]
    static = static_conv(x, factors.weight, geometry)
    if factors.scale is not None:
        static = static * over_pixels(factors.scale, geometry.dims)
    columns = torch.cat([block.T for block in q.chunk(blocks)])
    dims, point = geometry.dims, Geometry.point(geometry.dims, groups=blocks)
    z = norms[0](static_conv(x, over_pixels(columns, dims), point._replace(stride=geometry.stride)))
    fused = []
    for sample in range(x.shape[0]):
        for block in range(blocks):
            rows = z[sample, block * latent : (block + 1) * latent]
            fused.append(torch.einsum("ml,l...->m...", phi[sample, block], rows))
    z = norms[1](torch.cat(fused).reshape_as(z)) + z
    return static + static_conv(z, over_pixels(p, dims), point)


def _depthwise_residual(factors: DCDFactors, phi: Tensor) -> Tensor:
    return required(factors.p) @ phi @ required(factors.r).T  # (C_out, k^2)


def _blockwise_residual(factors: DCDFactors, phi: Tensor, geometry: Geometry) -> Tensor:
    all_p, all_q = required(factors.p), required(factors.q)
    blocks, groups = phi.shape[0], geometry.groups
    out_channels, in_channels = all_p.shape[0], all_q.shape[0]
    full = all_p.new_zeros(out_channels, in_channels, geometry.num_taps)
    rows, columns = out_channels // blocks, in_channels // blocks
    for b in range(blocks):
        p, q = all_p[b * rows : (b + 1) * rows], all_q[b * columns : (b + 1) * columns]
        if factors.form == "joint":
            block = torch.einsum("ia,ob,tc,abc->oit", q, p, required(factors.r), phi[b])
        else:
            one_hot = torch.tensor([tap == geometry.centre for tap in geometry.taps]).to(p)
            block = (p @ phi[b] @ q.T)[:, :, None] * one_hot
        full[b * rows : (b + 1) * rows, b * columns : (b + 1) * columns] = block
    # For each output channel, a grouped convolution stores only the columns of its group.
    per_group = in_channels // groups
    starts = [(o * groups // out_channels) * per_group for o in range(out_channels)]
    return torch.stack([full[o, start : start + per_group] for o, start in enumerate(starts)])
