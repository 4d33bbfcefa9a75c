"""Frequency band modulation of FDConv's input: a map for each band, and low-pass filters as matrix products."""

import math
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.families.contract.branch import context_dtype
from dynaconv.families.fdconv.products import phase_tables
from dynaconv.ops import full_precision, is_exporting

MASK_SIZE = 64
"""Side length at which the published masks are defined, before they are resized to the input's spectrum."""
MAX_BAND_GROUPS = 64
_MAX_CACHED_SIZES = 64


class Axis(NamedTuple):
    """Tables of the low-pass filters along one axis of N pixels, for the R frequencies that the widest filter keeps.

    Attributes:
        cos, sin: Of 2 pi u n / N, ``(R, N)``.
        weight: Factor of each frequency in the inverse transform, ``(R,)``.
        kept: For each filter, the number of first frequencies that it keeps, or a mask of 0 and 1, ``(R,)``.
    """

    cos: Tensor
    sin: Tensor
    weight: Tensor
    kept: tuple[int | Tensor, ...]


def keeps(mask_index: int, divisor: int) -> bool:
    """Whether the low-pass filter ``divisor`` keeps a frequency of the 64 x 64 spectrum along one axis.

    The published condition is |f| < 0.5 / n + 1e-8 in float32.
    """
    frequency = min(mask_index, MASK_SIZE - mask_index) / MASK_SIZE
    return frequency < _float32(0.5 / divisor + 1e-8)


def mask_indices(length: int, half: bool) -> list[int]:
    """Return the frequency of the 64 x 64 mask for each of ``length`` frequencies, as nearest-neighbour resizing does.

    Equal to `torch.nn.functional.interpolate`, which computes the index in float32.

    Args:
        length: H, or W // 2 + 1 if ``half``.
        half: Whether the axis holds non-negative frequencies only.
    """
    source = MASK_SIZE // 2 + 1 if half else MASK_SIZE
    scale = _float32(source / length)
    return [min(math.floor(_float32(index * scale)), source - 1) for index in range(length)]


def _float32(value: float) -> float:
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded


def _axis(size: int, bands: Sequence[int], half: bool, like: Tensor) -> Axis:
    indices = mask_indices(size // 2 + 1 if half else size, half)
    # The filters are nested: sorted by the number of filters that keep them, the frequencies of each come first.
    depth = {u: sum(keeps(index, n) for n in bands) for u, index in enumerate(indices)}
    order = sorted((u for u in depth if depth[u]), key=lambda u: -depth[u])
    cos, sin = phase_tables(order, range(size), size, like)
    weight = [(1 if not half or u == 0 or 2 * u == size else 2) / size for u in order]
    kept = tuple(sum(keeps(indices[u], n) for u in order) for n in bands)
    return Axis(cos, sin, torch.tensor(weight, dtype=like.dtype, device=like.device), kept)


def _free_axis(size: int, bands: Sequence[int], half: bool, like: Tensor) -> Axis:
    """As `_axis`, for a size that a graph leaves free: all frequencies, and masks."""
    pixel = torch.arange(size, device=like.device)
    frequency = pixel[: size // 2 + 1] if half else pixel
    # As tensors: not every converter of graphs divides by a symbolic size.
    pixels, count = pixel[-1] + 1, frequency[-1] + 1
    angle = torch.remainder(frequency[:, None] * pixel, pixels).to(like.dtype) * (2 * math.pi / pixels.to(like.dtype))
    source = MASK_SIZE // 2 + 1 if half else MASK_SIZE
    index = torch.floor(frequency.float() * (source / count.float())).long().clamp(max=source - 1)
    kept = [torch.tensor([keeps(i, n) for i in range(source)], device=like.device).to(like.dtype)[index] for n in bands]
    weight = torch.ones_like(frequency, dtype=like.dtype) / pixels.to(like.dtype)
    if half:
        single = (frequency == 0) | (2 * frequency == pixels)
        weight = weight * torch.where(single, 1, 2)
    return Axis(torch.cos(angle), torch.sin(angle), weight, tuple(kept))


class Filters(NamedTuple):
    """Tables of the low-pass filters for one image size.

    Attributes:
        columns: Transform of the columns, ``(W, 2 Q)``: real parts of the Q frequencies, then imaginary parts.
        rows: Cosines and sines of the R frequencies of the rows, ``(2 R, H)``.
        bands: For each filter, the inverse transforms of the rows, ``(H, 2 r)``, and of the columns, ``(2 q, W)``, and
            r and q, the numbers of first frequencies that it keeps, or a mask ``(R, Q)``, with r = R and q = Q.
    """

    columns: Tensor
    rows: Tensor
    bands: list[tuple[Tensor, Tensor, tuple[int, int] | Tensor]]


def _filters(rows: Axis, columns: Axis) -> Filters:
    """Combine the tables of both axes."""
    cos, sin = rows.cos * rows.weight[:, None], rows.sin * rows.weight[:, None]
    real, imaginary = columns.cos * columns.weight[:, None], -columns.sin * columns.weight[:, None]
    bands: list[tuple[Tensor, Tensor, tuple[int, int] | Tensor]] = []
    for r, q in zip(rows.kept, columns.kept, strict=True):
        if isinstance(r, int) and isinstance(q, int):
            bands.append((torch.cat((cos[:r], sin[:r])).T, torch.cat((real[:q], imaginary[:q])), (r, q)))
        else:
            mask = r[:, None] * q  # type: ignore[index]
            bands.append((torch.cat((cos, sin)).T, torch.cat((real, imaginary)), mask))
    return Filters(torch.cat((columns.cos, -columns.sin)).T, torch.cat((rows.cos, rows.sin)), bands)


@lru_cache(_MAX_CACHED_SIZES)
def _cached_filters(
    height: int, width: int, bands: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Filters:
    with torch.inference_mode(False):
        like = torch.empty((), dtype=dtype, device=device)
        filters = _filters(_axis(height, bands, False, like), _axis(width, bands, True, like))
        return Filters(filters.columns.contiguous(), filters.rows, filters.bands)


def filters_of(x: Tensor, bands: tuple[int, ...]) -> Filters:
    """Return the filters for images of the size of ``x``, ``(B, C, H, W)``."""
    height, width = x.shape[2:]
    compiling = torch.compiler.is_compiling() and not is_exporting()
    if compiling or type(height) is not int or type(width) is not int:
        return _filters(_free_axis(height, bands, False, x), _free_axis(width, bands, True, x))
    # Tensors made during export, or on the meta device, belong to the graph or have no values.
    if is_exporting() or type(x) not in (Tensor, nn.Parameter) or x.is_meta:
        return _filters(_axis(height, bands, False, x), _axis(width, bands, True, x))
    return _cached_filters(height, width, bands, x.dtype, x.device)


def low_passes(x: Tensor, bands: tuple[int, ...]) -> list[Tensor]:
    """Return low_n(x) = irfft2(rfft2(x) * mask_n) for each n of ``bands``.

    The masks keep few rows and columns of the spectrum, so products with tables of cosines and sines cost less than
    transforms of all frequencies.

    Args:
        x: ``(B, C, H, W)`` in float32 or float64.
        bands: Divisors, ascending: low_n keeps frequencies below about 1 / (2 n) cycles per pixel.
    """
    filters = filters_of(x, bands)
    turned = filters.rows @ (x @ filters.columns)  # (B, C, 2 R, 2 Q)
    rows, columns = filters.rows.shape[0] // 2, filters.columns.shape[1] // 2
    top, bottom = turned[..., :rows, :], turned[..., rows:, :]
    real = top[..., :columns] + bottom[..., columns:]
    imaginary = top[..., columns:] - bottom[..., :columns]
    outs = []
    for left, right, kept in filters.bands:
        if isinstance(kept, Tensor):
            part = (real * kept, imaginary * kept)
        else:
            part = (real[..., : kept[0], : kept[1]], imaginary[..., : kept[0], : kept[1]])
        stacked = torch.cat((torch.cat(part, -1), torch.cat((-part[1], part[0]), -1)), -2)  # (B, C, 2 r, 2 q)
        outs.append(left @ stacked @ right)
    return outs


class BandModulation(nn.Module):
    """x -> sum over bands of map_n(x) * band_n(x), with maps from convolutions of x.

    With low_n as in `low_passes`, the bands are ``x - low_n1``, ``low_n1 - low_n2``, ..., and the rest, the last low_n,
    whose map is 1 unless ``low_band`` is set. Maps of convolutions with zero weights are 1: the result is then x.

    Args:
        channels: C.
        bands: Divisors, ascending, at least one.
        groups: Number of groups of channels, each with maps of its own, computed from it; above 64, each channel is
            one.
        kernel_size: Side length of the convolutions.
        gate: ``sigmoid``, ``tanh`` or ``softmax``.
        low_band: Whether the rest has a map too.
        device, dtype: Device and dtype of the convolutions.

    Raises:
        ValueError: ``groups`` does not divide the channels.
    """

    def __init__(
        self,
        channels: int,
        bands: tuple[int, ...],
        *,
        groups: int = 1,
        kernel_size: int = 3,
        gate: str = "sigmoid",
        low_band: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.bands, self.gate, self.low_band = bands, gate, low_band
        self.num_maps = channels if groups > MAX_BAND_GROUPS else groups
        if channels % self.num_maps:
            divisors = ", ".join(str(d) for d in range(1, min(channels, MAX_BAND_GROUPS) + 1) if channels % d == 0)
            raise ValueError(f"band_groups={groups} does not divide in_channels={channels}; use one of {divisors}.")
        self.maps = nn.ModuleList(
            nn.Conv2d(
                channels,
                self.num_maps,
                kernel_size,
                padding=kernel_size // 2,
                groups=self.num_maps,
                device=device,
                dtype=dtype,
            )
            for _ in range(len(bands) + low_band)
        )

    def reset_parameters(self, std: float = 1e-6) -> None:
        """Draw the weights of the maps from a normal distribution and set their biases to zero."""
        for conv in self.maps:
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            nn.init.normal_(conv.weight, std=std) if std else nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)

    def neutralise(self) -> None:
        """Set the convolutions to zero, so that every map is 1."""
        self.reset_parameters(0.0)

    @property
    def is_neutral(self) -> bool:
        """Whether every map is 1 for every input."""
        return not any(parameter.any() for parameter in self.parameters())

    def band_maps(self, x: Tensor) -> list[Tensor]:
        """Return the map of each band, ``(B, g, H, W)``, in the dtype of ``x``."""
        convs: list[nn.Conv2d] = list(self.maps)  # type: ignore[arg-type]
        weights, biases = ([getattr(conv, name).to(x.dtype) for conv in convs] for name in ("weight", "bias"))
        groups, padding = convs[0].groups, convs[0].padding
        if groups > 1:
            logits = [F.conv2d(x, w, b, 1, padding, 1, groups) for w, b in zip(weights, biases, strict=True)]
        else:
            logits = list(F.conv2d(x, torch.cat(weights), torch.cat(biases), 1, padding).chunk(len(convs), 1))
        if self.gate == "softmax":
            return [torch.softmax(each, 1) * self.num_maps for each in logits]
        return [1 + torch.tanh(each) if self.gate == "tanh" else 2 * torch.sigmoid(each) for each in logits]

    def forward(self, x: Tensor) -> Tensor:
        """Modulate ``(B, C, H, W)``; computed in float32, or float64 for float64 inputs."""
        with full_precision(x.device):
            wide = x.to(context_dtype(x.dtype))
            maps = [self._of_channels(each) for each in self.band_maps(wide)]
            lows = low_passes(wide, self.bands)
            out = maps[0] * wide
            for number, low in enumerate(lows, start=1):
                following = maps[number] if number < len(maps) else 1
                out = torch.addcmul(out, following - maps[number - 1], low)
        return out.to(x.dtype)

    def _of_channels(self, maps: Tensor) -> Tensor:
        """Return maps that broadcast over the channels; channel c has map c // (C / g)."""
        if maps.shape[1] == 1:
            return maps
        channels = self.maps[0].in_channels
        return maps.repeat_interleave(channels // maps.shape[1], 1)  # type: ignore[operator]

    def extra_repr(self) -> str:
        """The settings of the bands."""
        return f"bands={self.bands}, gate={self.gate!r}, low_band={self.low_band}"
