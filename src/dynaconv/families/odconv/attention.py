"""The four attentions of ODConv and their computation from logits."""

from typing import NamedTuple

import torch
from torch import Tensor


class ODConvCoefficients(NamedTuple):
    """Attentions along the axes of the stacked kernels, or their logits. A field is None if there is no attention."""

    channel: Tensor
    """Attention over input channels, ``(B, C_in)``, each in (0, 1)."""
    filter: Tensor | None = None
    """Attention over output channels, ``(B, C_out)``, each in (0, 1); None if each output channel reads one input
    channel of its own, whose attention has the same effect."""
    spatial: Tensor | None = None
    """Attention over kernel positions, ``(B, *k)``, each in (0, 1); None for a single position."""
    kernel: Tensor | None = None
    """Attention over the K kernels, ``(B, K)``, positive with sum 1; None for a single kernel."""


def odconv_attention(logits: ODConvCoefficients, temperature: Tensor | None = None) -> ODConvCoefficients:
    """Convert logits to attentions: divide by the temperature, then apply a sigmoid, or a softmax over the kernels.

    Args:
        logits: One tensor per axis, or None.
        temperature: A scalar > 0; large values make the sigmoids 1/2 and the kernels' weights equal. None means 1.
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
