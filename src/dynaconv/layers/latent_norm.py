"""Batch norm in the latent space, usable where a batch has a single value a channel."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LatentBatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, except that in train mode a single value a channel is normalised by running statistics.

    One sample of 1x1 pixels has no variance; the ordinary layer raises there.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(B, L, H, W)`` over all axes but the second."""
        if self.training and input.shape[0] * input.shape[2] * input.shape[3] == 1:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


def scale_and_shift(norm: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The map z -> scale * z + shift that a batch norm is in eval mode, each ``(L,)``.

    ``norm`` may be what another tool put in place of `LatentBatchNorm2d`, such as a synchronised or a frozen norm.
    """
    parts: Any = norm
    scale = torch.rsqrt(parts.running_var.to(dtype) + parts.eps)
    if parts.weight is not None:
        scale = parts.weight.to(dtype) * scale
    shift = -parts.running_mean.to(dtype) * scale
    return scale, shift if parts.bias is None else parts.bias.to(dtype) + shift
