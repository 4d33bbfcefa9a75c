"""The coefficients of FDConv and the activations that give them."""

from typing import NamedTuple

import torch
from torch import Tensor


class FDConvCoefficients(NamedTuple):
    """Gates along the axes of the kernel and gains of its frequencies, or their logits.

    The gates of single kernel elements, as large as the kernel, are not among them; `FDConv2d.local_gates` gives them.
    """

    channel: Tensor
    """Gate of each input channel, ``(B, C_in)``, A in the paper's code."""
    filter: Tensor
    """Gate of each output channel, ``(B, C_out)``."""
    kernel: Tensor
    """Gain of each group of frequencies of each spectrum, ``(B, spectra * K)``, each in (0, 2)."""
    spatial: Tensor | None = None
    """Gate of each kernel position, ``(B, k_h, k_w)``; None for a single position."""


def gate(logits: Tensor, kind: str, limit: float = 2.0) -> Tensor:
    """Return ``limit * sigmoid(logits)``, or ``1 + tanh(logits)`` if ``kind`` is ``tanh``."""
    if kind == "tanh":
        return 1 + torch.tanh(logits)
    gates = torch.sigmoid(logits)
    return gates if limit == 1 else limit * gates


def fdconv_coefficients(logits: FDConvCoefficients, kind: str, limit: float) -> FDConvCoefficients:
    """Convert logits, divided by their temperatures, to gates and gains.

    Args:
        logits: Outputs of the branch.
        kind: ``sigmoid`` or ``tanh``.
        limit: Upper limit of the gates with ``sigmoid``; that of the gains is always 2.
    """
    return FDConvCoefficients(
        channel=gate(logits.channel, kind, limit),
        filter=gate(logits.filter, kind, limit),
        kernel=gate(logits.kernel, kind),
        spatial=None if logits.spatial is None else gate(logits.spatial, kind, limit),
    )
