"""Turns steps of a program to int8: weights here, activations when the kernels read them (``csrc/product_int8.h``)."""

from dataclasses import replace

import torch

from dynaconv.native.steps import DENSE, PRECISIONS, Step
from dynaconv.ops.packing import byte_panels

_MIN_CHANNELS = 16
"""With fewer input or output channels, quantising the input takes longer than the product in int8 saves."""
_MAX_INPUTS = 1 << 16
"""With more inputs of an output channel, its sum of products may not fit into 32 bits."""


def in_int8(step: Step) -> Step:
    """Return a step in int8 if it has a kernel for that and is large enough to gain from it; otherwise the step itself.

    Mixtures of kernels and kernels of cells keep their weights in float32: the kernels quantise W(x).
    """
    if not _is_supported(step):
        return step
    step = replace(step, precision=PRECISIONS["int8"])
    if step.is_mixture or step.cells is not None:
        return step
    assert step.weight is not None
    step.weight, step.weight_scale = byte_panels(step.weight, step.out_channels, step.kernel_h * step.kernel_w)
    if step.q is not None:
        step.q, step.q_scale = byte_panels(step.q, step.latent, 1)
    return step


def _is_supported(step: Step) -> bool:
    taps = step.kernel_h * step.kernel_w
    if step.kind != DENSE or step.groups > 1 or min(step.in_channels, step.out_channels) < _MIN_CHANNELS:
        return False
    if taps * step.in_channels > _MAX_INPUTS:
        return False
    if taps == 1 and any((step.pad_top, step.pad_left, step.pad_bottom, step.pad_right)):
        return False
    # Rounding would hide a weight that is not finite.
    return all(bool(torch.isfinite(part).all()) for part in (step.weight, step.q) if part is not None)
