"""`batched_conv` and `batched_conv_transpose`: a batch of kernels applied to a batch of inputs."""

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from dynaconv.errors import check_type, received
from dynaconv.ops.exporting import is_exporting
from dynaconv.ops.geometry import (
    Geometry,
    check_output_padding,
    over_pixels,
    per_axis,
    same_padding,
    swap_channels,
    transposed_geometry,
)
from dynaconv.ops.per_sample import pad_pixels, per_sample_conv


def batched_conv(
    x: Tensor,
    kernels: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve each sample of a batch with a kernel of its own, in 1, 2 or 3 dimensions.

    Equals `torch.nn.functional.conv1d`, ``conv2d`` or ``conv3d`` of each ``x[b]`` with ``kernels[b]``. It has first and
    second derivatives with respect to every tensor, works under `torch.vmap`, torch.compile, autocast and
    channels_last, and keeps the batch size free in exported graphs.

    The algorithm depends on the shapes alone. A single tap is one matrix product per sample. More taps are products
    with patches, or one convolution with the batch folded into groups, whichever the cost model estimates to be faster.
    Exported graphs sum one product per tap.

    Args:
        x: Input, ``(B, C_in, *sizes)`` with 1, 2 or 3 spatial sizes; B may be 0.
        kernels: One kernel per sample, ``(B, C_out, C_in / groups, *k)``.
        bias: ``(C_out,)``, the same for all samples, or ``(B, C_out)``; None for no bias.
        stride, padding, dilation: An integer, or one per spatial axis; padding may be ``valid``, or with stride 1
            ``same``.
        groups: Number of groups; divides C_in and C_out.

    Returns:
        ``(B, C_out, *out_sizes)``.

    Raises:
        ValueError: A shape or an argument does not match the others.
        TypeError: ``x`` or ``kernels`` is not a tensor of a floating-point dtype, or their dtypes differ without
            autocast.

    Example:
        >>> dynaconv.batched_conv(torch.randn(8, 3, 100), torch.randn(8, 16, 3, 5), padding=2).shape
        torch.Size([8, 16, 100])
    """
    dims = _check_kernels("batched_conv", x, kernels)
    _check_channels("batched_conv", kernels, x.shape[1], groups, kernels.shape[2] * groups)
    kernel_size = tuple(kernels.shape[3:])
    steps, spacing = per_axis("stride", stride, dims), per_axis("dilation", dilation, dims)
    if isinstance(padding, str):
        x, pads = _named_padding(x, padding, kernel_size, steps, spacing)
    else:
        pads = per_axis("padding", padding, dims, 0)
    geometry = Geometry(kernel_size, steps, pads, spacing, groups)
    _check_output("batched_conv", x, geometry)
    return _with_bias(per_sample_conv(x, kernels, geometry), bias, kernels.shape[1])


def batched_conv_transpose(
    x: Tensor,
    kernels: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """Apply a transposed convolution with its own kernel to each sample of a batch, in 1, 2 or 3 dimensions.

    Equals `torch.nn.functional.conv_transpose1d`, ``conv_transpose2d`` or ``conv_transpose3d`` of each ``x[b]`` with
    ``kernels[b]``; see `batched_conv`.

    Args:
        x: Input, ``(B, C_in, *sizes)`` with 1, 2 or 3 spatial sizes; B may be 0.
        kernels: One kernel per sample, ``(B, C_in, C_out / groups, *k)``.
        bias: ``(C_out,)``, the same for all samples, or ``(B, C_out)``; None for no bias.
        stride, padding, output_padding, dilation: An integer, or one per spatial axis; each output padding is smaller
            than the stride or the dilation of its axis.
        groups: Number of groups; divides C_in and C_out.

    Returns:
        ``(B, C_out, *out_sizes)``.

    Raises:
        ValueError: A shape or an argument does not match the others.
        TypeError: ``x`` or ``kernels`` is not a tensor of a floating-point dtype, or their dtypes differ without
            autocast.
    """
    dims = _check_kernels("batched_conv_transpose", x, kernels)
    _check_channels("batched_conv_transpose", kernels, x.shape[1], groups, kernels.shape[1])
    steps, spacing = per_axis("stride", stride, dims), per_axis("dilation", dilation, dims)
    pads, extra = per_axis("padding", padding, dims, 0), per_axis("output_padding", output_padding, dims, 0)
    check_output_padding(extra, steps, spacing)
    geometry = transposed_geometry(tuple(kernels.shape[3:]), steps, pads, spacing, groups, extra)
    _check_output("batched_conv_transpose", x, geometry)
    out = per_sample_conv(x, swap_channels(kernels, groups, dims), geometry)
    return _with_bias(out, bias, kernels.shape[2] * groups)


def _check_kernels(name: str, x: Tensor, kernels: Tensor) -> int:
    """Return the number of spatial axes."""
    check_type("x", x, Tensor)
    check_type("kernels", kernels, Tensor)
    for argument, value in (("x", x), ("kernels", kernels)):
        if not (value.is_floating_point() or value.is_complex()):
            raise TypeError(f"`{argument}` of {name} must have a floating-point dtype; got {value.dtype}.")
    if x.dtype != kernels.dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(f"{name} takes an input and kernels of one dtype; got {x.dtype} and {kernels.dtype}.")
    if x.dim() not in (3, 4, 5) or kernels.dim() != x.dim() + 1:
        raise ValueError(
            f"{name} takes an input (B, C_in, L), (B, C_in, H, W) or (B, C_in, D, H, W), and kernels with one axis "
            f"more; got {tuple(x.shape)} and {tuple(kernels.shape)}."
        )
    if kernels.shape[0] != x.shape[0]:
        raise ValueError(
            f"{name} takes one kernel per sample; got {kernels.shape[0]} kernels for {x.shape[0]} samples."
        )
    return x.dim() - 2


def _check_channels(name: str, kernels: Tensor, in_channels: int, groups: int, expected: int) -> None:
    if not isinstance(groups, Integral) or groups < 1 or kernels.shape[1] % groups or in_channels % groups:
        raise ValueError(
            f"groups must be a positive integer that divides the channels; got groups={received(groups)} for "
            f"{in_channels} input channels and kernels {tuple(kernels.shape)}."
        )
    if in_channels != expected:
        raise ValueError(
            f"{name} with groups={groups} and kernels {tuple(kernels.shape)} takes {expected} input channels; got "
            f"{in_channels}."
        )


def _check_output(name: str, x: Tensor, geometry: Geometry) -> None:
    sizes = geometry.output_size(*x.shape[2:])
    # Symbolic sizes stay unchecked: a comparison would become a condition on the sizes of a compiled or exported graph.
    if not (is_exporting() or torch.compiler.is_compiling()) and min(sizes) < 1:
        raise ValueError(
            f"{name} would have outputs of size {sizes} for an input {tuple(x.shape)} and kernels of size "
            f"{geometry.kernel_size}; use a larger input, or another padding."
        )


def _named_padding(
    x: Tensor, padding: str, kernel_size: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[Tensor, tuple[int, ...]]:
    """Return the input, padded where both sides differ, and the symmetric padding."""
    none = (0,) * len(kernel_size)
    if padding == "valid":
        return x, none
    if padding != "same":
        raise ValueError(f"padding must be integers, 'same' or 'valid'; got {received(padding)}.")
    if set(stride) != {1}:
        raise ValueError(f"padding='same' needs stride 1; got stride={stride}. Give the padding as numbers.")
    before, after = zip(*same_padding(kernel_size, dilation), strict=True)
    return (x, before) if before == after else (pad_pixels(x, before, after), none)


def _with_bias(out: Tensor, bias: Tensor | None, out_channels: int) -> Tensor:
    if bias is None:
        return out
    check_type("bias", bias, Tensor)
    if tuple(bias.shape) not in ((out_channels,), (out.shape[0], out_channels)):
        raise ValueError(f"bias must be (C_out,) or (B, C_out), {out_channels} values each; got {tuple(bias.shape)}.")
    return out + over_pixels(bias, out.dim() - 2).to(out.dtype)
