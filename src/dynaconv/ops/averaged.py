"""The average of feature maps in training by compiled operators."""

from typing import Any

import torch
from torch import Tensor

from dynaconv.ops.eager import compiled_is_enabled, trains_in_channels_last


def supports_averaged(x: Tensor) -> bool:
    """Whether the operators serve this input: they are enabled, and it is channels_last and trained in float32."""
    return compiled_is_enabled() and trains_in_channels_last(x)


def averaged(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``x`` and its average over the pixels, ``(B, C)``, if `supports_averaged` holds.

    Who uses the first result in place of ``x`` spares a pass over memory: the gradient of the average is added to its
    gradient in place.
    """
    same, average = _Averaged.apply(x)
    return same, average


class _Averaged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        average: Tensor = torch.ops.dynaconv.average(x, x.new_empty(x.shape[:2]))
        return x.view_as(x), average

    @staticmethod
    def backward(ctx: Any, to_x: Tensor, to_average: Tensor) -> Tensor:
        if torch.is_grad_enabled() or not to_x.is_contiguous(memory_format=torch.channels_last):
            return to_x + to_average[:, :, None, None] / (to_x.shape[2] * to_x.shape[3])
        # The layer's backward pass has just made this tensor, and nothing else holds it.
        torch.ops.dynaconv.average_gradient(to_average.contiguous(), to_x)
        return to_x
