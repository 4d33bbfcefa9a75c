"""Convolution of all samples of a batch with the same kernel."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dynaconv.ops.compiling import saved_for_backward
from dynaconv.ops.cost import statically_true
from dynaconv.ops.exporting import is_exporting
from dynaconv.ops.geometry import Geometry, swap_channels

_SMALL_BATCH = 16
# torch.nn.functional describes these functions without types.
CONVOLUTIONS: tuple[Callable[..., Any], ...] = (F.conv1d, F.conv2d, F.conv3d)
TRANSPOSED: tuple[Callable[..., Any], ...] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def static_conv(x: Tensor, weight: Tensor, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """The convolution of `torch.nn.functional` with the arguments of a geometry.

    Args:
        x: Input, ``(B, C_in, *sizes)``.
        weight: ``(C_out, C_in / groups, *k)``, also for a transposed convolution.
        geometry: Stride, padding, dilation and groups.
        bias: ``(C_out,)`` or None.

    Returns:
        ``(B, C_out, *out_sizes)``.
    """
    _, stride, padding, dilation, groups, output_padding = geometry
    if output_padding is None:
        out: Tensor = CONVOLUTIONS[geometry.dims - 1](x, weight, bias, stride, padding, dilation, groups)
        return out
    weight = swap_channels(weight, groups, geometry.dims)
    function = TRANSPOSED[geometry.dims - 1]
    transposed: Tensor = function(x, weight, bias, stride, padding, output_padding, groups, dilation)
    return transposed


def shared_conv(x: Tensor, weight: Tensor, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """As `static_conv`, with fewer graphs under torch.compile.

    Under torch.compile on the CPU with a dynamic batch size, a convolution of stride and dilation 1 in one or two
    dimensions runs with one more axis of length 1 and stride 2, which is as fast. torch 2.14 guards a CPU convolution
    without a stride above 1 on whether the batch has fewer than 16 samples, and so would compile a second graph.
    """
    if torch.compiler.is_compiling() and not is_exporting() and x.device.type == "cpu":
        dynamic = not (statically_true(x.shape[0] < _SMALL_BATCH) or statically_true(x.shape[0] >= _SMALL_BATCH))
        kernel_size, stride, padding, dilation, groups, output_padding = geometry
        plain = output_padding is None and set(stride) == set(dilation) == {1}
        if dynamic and plain and geometry.dims < len(CONVOLUTIONS):
            wider = Geometry((1, *kernel_size), (2, *stride), (0, *padding), (1, *dilation), groups)
            return saved_for_backward(static_conv(x.unsqueeze(2), weight.unsqueeze(2), wider, bias).squeeze(2))
    return static_conv(x, weight, geometry, bias)
