"""Weights in the orders that the compiled kernels read; `csrc/kernels.h` defines them."""

import torch
import torch.nn.functional as F
from torch import Tensor

PANEL = 16
"""Channels of a block and of a panel."""
HALF = 8
"""A last panel of at most so many channels is only so wide."""


def round_up(count: int, to: int = PANEL) -> int:
    """The least multiple of ``to`` that is not below ``count``."""
    return -(-count // to) * to


def panel_width(channels: int) -> int:
    """Columns that the panels of so many channels have."""
    rest = channels % PANEL
    return channels - rest + (0 if rest == 0 else HALF if rest <= HALF else PANEL)


def panels(matrix: Tensor) -> Tensor:
    """A matrix ``(N, K)`` in panels of 16 rows, inside a panel column by column: ``(panel_width(N) * K,)``."""
    rows, columns = matrix.shape
    padded = F.pad(matrix, (0, 0, 0, panel_width(rows) - rows))
    whole = padded.shape[0] // PANEL * PANEL
    parts = [padded[:whole].reshape(-1, PANEL, columns).transpose(1, 2).flatten()]
    return torch.cat([*parts, padded[whole:].T.flatten()])


def blocks(image: Tensor) -> Tensor:
    """Values ``(C, pixels)`` in blocks of 16 channels, pixels inside: ``(round_up(C) * pixels,)``."""
    channels, pixels = image.shape
    padded = F.pad(image, (0, 0, 0, round_up(channels) - channels))
    return padded.reshape(-1, PANEL, pixels).transpose(1, 2).flatten()


def padded_vector(vector: Tensor) -> Tensor:
    """A vector with zeros behind it, up to a multiple of 16."""
    return F.pad(vector, (0, round_up(len(vector)) - len(vector)))


def dense_weight(weight: Tensor) -> Tensor:
    """A convolution's kernel ``(C_out, C_in, k_h, k_w)`` in panels: taps outside, channels in inside."""
    return panels(weight.permute(0, 2, 3, 1).flatten(1))


def depthwise_weight(weight: Tensor) -> Tensor:
    """A depthwise kernel ``(C, 1, k_h, k_w)`` in blocks of 16 channels, taps inside."""
    return blocks(weight.flatten(1))
