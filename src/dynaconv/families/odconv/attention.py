"""The four attentions of ODConv, and how they come from logits."""

from typing import NamedTuple

import torch
from torch import Tensor


class ODConvCoefficients(NamedTuple):
    """One attention along each axis of the stacked kernels, or its logits. A part is None where the axis has none."""

    channel: Tensor
    """Of the channels in, ``(B, C_in)``, each in (0, 1)."""
    filter: Tensor | None = None
    """Of the channels out, ``(B, C_out)``, each in (0, 1); None when each channel out reads one channel in of its own,
    whose attention says it already."""
    spatial: Tensor | None = None
    """Of the kernel's positions, ``(B, k_h, k_w)``, each in (0, 1); None for a single position."""
    kernel: Tensor | None = None
    """Of the K kernels, ``(B, K)``, positive and of sum 1; None for a single kernel."""


def odconv_attention(logits: ODConvCoefficients, temperature: Tensor | None = None) -> ODConvCoefficients:
    """Attentions of logits: each divided by the temperature, then a sigmoid, or over the kernels a softmax.

    Args:
        logits: One tensor an axis, or None.
        temperature: A scalar > 0; large values make sigmoids 1/2 and the kernels' weights equal. None stands for 1.
    """
    if temperature is not None:
        logits = ODConvCoefficients(*(None if part is None else part / temperature.to(part.dtype) for part in logits))  # type: ignore[arg-type]
    channel, filters, spatial, kernel = logits
    return ODConvCoefficients(
        torch.sigmoid(channel),
        None if filters is None else torch.sigmoid(filters),
        None if spatial is None else torch.sigmoid(spatial),
        None if kernel is None else torch.softmax(kernel, dim=1),
    )
