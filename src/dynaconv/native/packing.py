"""Packs weights into the layouts that the compiled kernels read; `csrc/kernels.h` defines them."""

import torch
import torch.nn.functional as F
from torch import Tensor

PANEL = 16
"""Channels per block and per panel."""
HALF = 8
"""Width of the last panel if at most this number of channels remains for it."""


def round_up(count: int, to: int = PANEL) -> int:
    """Return the smallest multiple of ``to`` that is at least ``count``."""
    return -(-count // to) * to


def panel_width(channels: int) -> int:
    """Return the total width of the panels of ``channels`` output channels."""
    rest = channels % PANEL
    return channels - rest + (0 if rest == 0 else HALF if rest <= HALF else PANEL)


def panels(matrix: Tensor) -> Tensor:
    """Pack a matrix ``(N, K)`` into panels of 16 rows, each stored column by column: ``(panel_width(N) * K,)``."""
    rows, columns = matrix.shape
    padded = F.pad(matrix, (0, 0, 0, panel_width(rows) - rows))
    full = padded.shape[0] // PANEL * PANEL
    parts = [padded[:full].reshape(-1, PANEL, columns).transpose(1, 2).flatten()]
    return torch.cat([*parts, padded[full:].T.flatten()])


def blocks(image: Tensor) -> Tensor:
    """Pack values ``(C, pixels)`` into blocks of 16 channels, stored pixel by pixel: ``(round_up(C) * pixels,)``."""
    channels, pixels = image.shape
    padded = F.pad(image, (0, 0, 0, round_up(channels) - channels))
    return padded.reshape(-1, PANEL, pixels).transpose(1, 2).flatten()


def padded_vector(vector: Tensor) -> Tensor:
    """Pad a vector with zeros to a multiple of 16."""
    return F.pad(vector, (0, round_up(len(vector)) - len(vector)))


def dense_weight(weight: Tensor) -> Tensor:
    """Pack a kernel ``(C_out, C_in, k_h, k_w)`` into panels; the inputs have the order (tap, input channel)."""
    return panels(weight.permute(0, 2, 3, 1).flatten(1))


def depthwise_weight(weight: Tensor) -> Tensor:
    """Pack a depthwise kernel ``(C, 1, k_h, k_w)`` into blocks of 16 channels, each stored tap by tap."""
    return blocks(weight.flatten(1))
