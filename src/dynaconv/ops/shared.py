"""Convolution of all samples of a batch with the same kernel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dynaconv.ops.compiling import saved_for_backward
from dynaconv.ops.cost import statically_true
from dynaconv.ops.exporting import is_exporting
from dynaconv.ops.geometry import Geometry

_SMALL_BATCH = 16


def shared_conv2d(x: Tensor, weight: Tensor, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.conv2d` with the arguments of a geometry.

    Under torch.compile on the CPU with a dynamic batch size, a convolution of stride and dilation 1 runs as a 3-D
    convolution of depth 1 and depth stride 2, which is as fast. torch 2.14 guards a CPU convolution without a stride
    above 1 on whether the batch has fewer than 16 samples, and so would compile a second graph.

    Args:
        x: Input, ``(B, C_in, H, W)``.
        weight: ``(C_out, C_in / groups, k_h, k_w)``.
        geometry: Stride, padding, dilation and groups.
        bias: ``(C_out,)`` or None.

    Returns:
        ``(B, C_out, H_out, W_out)``.
    """
    _, stride, padding, dilation, groups = geometry
    if torch.compiler.is_compiling() and not is_exporting() and x.device.type == "cpu":
        dynamic = not (statically_true(x.shape[0] < _SMALL_BATCH) or statically_true(x.shape[0] >= _SMALL_BATCH))
        if dynamic and stride == dilation == (1, 1):
            volumes, kernels = x.unsqueeze(2), weight.unsqueeze(2)
            out = F.conv3d(volumes, kernels, bias, (2, 1, 1), (0, *padding), 1, groups)
            return saved_for_backward(out.squeeze(2))
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
