"""Packs weights into the layouts that the compiled kernels read; `native/csrc/kernels.h` defines them."""

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


def matrix(packed: Tensor, rows: int) -> Tensor:
    """Return the matrix ``(rows, K)`` that `panels` packed."""
    columns = len(packed) // panel_width(rows)
    full = panel_width(rows) // PANEL * PANEL
    parts = [packed[: full * columns].view(-1, columns, PANEL).transpose(1, 2).reshape(-1, columns)]
    return torch.cat([*parts, packed[full * columns :].view(columns, -1).T])[:rows]


def byte_panels(packed: Tensor, rows: int, taps: int) -> tuple[Tensor, Tensor]:
    """Quantise a matrix in panels to int8, with a scale for each row; ``native/csrc/int8.h`` defines the layout.

    Args:
        packed: What `panels` makes of a matrix ``(rows, taps * C_in)``.
        rows: Number of rows.
        taps: Number of parts of a row, each of which is padded to a multiple of four bytes.

    Returns:
        The panels, whose elements are int32 words of four bytes, and the scales of all rows followed by the sums of
        their bytes, both padded to a multiple of 16.
    """
    weight = matrix(packed, rows)
    scale = weight.abs().amax(1) / 127
    values = (weight / torch.where(scale > 0, scale, 1)[:, None]).round().to(torch.int8)
    sums = values.sum(1, dtype=torch.float32)
    values = values.reshape(rows, taps, -1)
    words = F.pad(values, (0, round_up(values.shape[2], 4) - values.shape[2])).view(torch.int32)
    return panels(words.flatten(1)), torch.cat([padded_vector(scale), padded_vector(sums)])


def blocks(image: Tensor) -> Tensor:
    """Pack values ``(C, pixels)`` into blocks of 16 channels, stored pixel by pixel: ``(round_up(C) * pixels,)``."""
    channels, pixels = image.shape
    padded = F.pad(image, (0, 0, 0, round_up(channels) - channels))
    return padded.reshape(-1, PANEL, pixels).transpose(1, 2).flatten()


def padded_vector(vector: Tensor) -> Tensor:
    """Pad a vector with zeros to a multiple of 16."""
    return F.pad(vector, (0, round_up(len(vector)) - len(vector)))


def dense_weight(weight: Tensor, groups: int = 1) -> Tensor:
    """Pack kernels ``(..., C_out, C_in / groups, k_h, k_w)`` into panels, for inputs in the order (tap, input channel).

    The weights of several kernels for one input lie side by side. A panel of a grouped convolution has weights for the
    inputs that `windows` gives, and zeros for those of other groups.
    """
    out_channels, inputs = weight.shape[-4], weight.shape[-3]
    # (C_out, taps, C_in / groups, K)
    rows = weight.reshape(-1, *weight.shape[-4:]).flatten(-2).permute(1, 3, 2, 0)
    if groups == 1:
        return panels(rows.flatten(1))
    reach = windows(inputs * groups, out_channels, groups)
    size = max(count for _, count in reach)
    parts: list[Tensor] = []
    for part, (first, count) in zip(torch.split(rows, PANEL), reach, strict=True):
        window = rows.new_zeros(len(part), rows.shape[1], count, rows.shape[3])
        for row, kernel in enumerate(part):
            start = (len(parts) * PANEL + row) * groups // out_channels * inputs - first
            window[row, :, start : start + inputs] = kernel
        packed = panels(window.flatten(1))
        parts.append(F.pad(packed, (0, packed.numel() // count * (size - count))))
    return torch.cat(parts)


def bf16_words(packed: Tensor, width: int, kernels: int = 1) -> Tensor:
    """Round packed weights to bfloat16, to nearest even; return words of 32 bits that each hold those of two rows.

    Args:
        packed: Panels or blocks of channels with a total width of ``width``; a row has the weights of ``kernels``
            kernels for one input, side by side.

    Returns:
        int32, as packed before with half as many rows, rounded up. The lower half of a word belongs to the even row.
    """
    rows = len(packed) // width // kernels
    full = width // PANEL * PANEL
    parts = []
    for part, lanes in ((packed[: full * rows * kernels], PANEL), (packed[full * rows * kernels :], HALF)):
        padded = F.pad(part.reshape(-1, rows, kernels * lanes), (0, 0, 0, rows % 2))
        bits = padded.bfloat16().view(torch.int16).int() & 0xFFFF
        parts.append((bits[:, ::2] | bits[:, 1::2] << 16).flatten())
    return torch.cat(parts)


def unpacked(packed: Tensor, like: Tensor) -> Tensor:
    """Return the kernels, in the shape and memory format of ``like``, that `dense_weight` without groups packed."""
    result = torch.empty_like(like)
    order = result.permute(1, 3, 4, 2, 0)
    order.copy_(matrix(packed, like.shape[1]).view(order.shape))
    return result


def windows(in_channels: int, out_channels: int, groups: int) -> list[tuple[int, int]]:
    """Return the first input channel and the number of input channels that each panel of a convolution reads.

    ``Windows`` in ``csrc/windows.h`` has the same rule.
    """
    inputs, outputs = in_channels // groups, out_channels // groups
    firsts, ends = [], []
    for channel in range(0, out_channels, PANEL):
        firsts.append(channel // outputs * inputs // PANEL)
        last = min(channel + PANEL, out_channels) - 1
        ends.append(-(-(last // outputs + 1) * inputs // PANEL))
    size = max(end - first for first, end in zip(firsts, ends, strict=True))
    firsts = [PANEL * min(first, -(-in_channels // PANEL) - size) for first in firsts]
    return [(first, min(PANEL * size, in_channels - first)) for first in firsts]


def depthwise_weight(weight: Tensor) -> Tensor:
    """Pack a depthwise kernel ``(C, 1, k_h, k_w)`` into blocks of 16 channels, each stored tap by tap."""
    return blocks(weight.flatten(1))
