"""The published dynamic layers, written anew from their formulas, with the module names of their checkpoints."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def hard_sigmoid(t: Tensor) -> Tensor:
    """In [0, 2], 1 at 0."""
    return F.relu6(t + 3) / 3


class Gate(nn.Module):
    """h * hsig(F2 h)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(width, width, bias=False))

    def forward(self, h: Tensor) -> Tensor:
        return h * hard_sigmoid(self.fc(h))


class PublishedDCD(nn.Module):
    """A DCD convolution. ``style`` is ``mobilenet``, ``basic`` or ``bottleneck``."""

    def __init__(self, c_in: int, c_out: int, k: int = 1, stride: int = 1, *, style: str, fc_squeeze: int = 16) -> None:
        super().__init__()
        cells, latent, hidden = dcd_widths(style, c_in, c_out, fc_squeeze)
        self.cells = math.isqrt(cells)
        self.conv = nn.Conv2d(c_in, c_out, k, stride, k // 2, bias=False)
        self.names = ("conv_q", "conv_p") if style == "mobilenet" else ("q", "p")
        setattr(self, self.names[0], nn.Conv2d(c_in, latent, 1, stride, bias=False))
        setattr(self, self.names[1], nn.Conv2d(latent, c_out, 1, bias=False))
        self.fc = nn.Sequential(nn.Linear(cells * c_in, hidden, bias=False), Gate(hidden))
        self.fc_phi = nn.Linear(hidden, latent**2, bias=False)
        self.fc_scale = nn.Linear(hidden, c_out, bias=False)
        self.bn1 = nn.BatchNorm2d(latent)
        self.bn2 = nn.BatchNorm2d(latent)

    def forward(self, x: Tensor) -> Tensor:
        g = self.fc(F.adaptive_avg_pool2d(x, self.cells).flatten(1))
        z = self.bn1(getattr(self, self.names[0])(x))
        latent = z.shape[1]
        phi = self.fc_phi(g).reshape(-1, latent, latent)
        z = self.bn2(torch.einsum("bml,blhw->bmhw", phi, z)) + z
        scale = hard_sigmoid(self.fc_scale(g))[:, :, None, None]
        return getattr(self, self.names[1])(z) + scale * self.conv(x)


def dcd_widths(style: str, c_in: int, c_out: int, fc_squeeze: int) -> tuple[int, int, int]:
    """Cells of the context, L, and the width of the branch."""
    if style == "mobilenet":
        cells, reduction = (4, 8) if c_in < c_out else (1, 2)
        latent = min(cells * c_in // reduction, c_out // reduction)
        while latent**2 > 2 * cells * c_in:
            reduction *= 2
            latent = min(cells * c_in // reduction, c_out // reduction)
        latent = max(latent, 4)
        return cells, latent, max(max(cells * c_in, latent**2) // fc_squeeze, 4)
    cells = 4 if style == "basic" else 1
    latent = math.isqrt(cells * c_in)
    hidden = max(cells * c_in, latent**2) // 16
    return cells, latent, max(hidden, 4) if style == "basic" else hidden


class PublishedDCDClassifier(nn.Module):
    """A DCD linear layer with L = 32 and a branch of 32."""

    def __init__(self, c_in: int, num_classes: int) -> None:
        super().__init__()
        self.cls = nn.Linear(c_in, num_classes)
        self.cls_q = nn.Linear(c_in, 32, bias=False)
        self.cls_p = nn.Linear(32, num_classes, bias=False)
        self.fc = nn.Sequential(nn.Linear(c_in, 32, bias=False), Gate(32))
        self.fc_phi = nn.Linear(32, 32**2, bias=False)
        self.fc_scale = nn.Linear(32, num_classes, bias=False)
        self.bn1 = nn.BatchNorm1d(32)
        self.bn2 = nn.BatchNorm1d(32)

    def forward(self, x: Tensor) -> Tensor:
        g = self.fc(x)
        z = self.bn1(self.cls_q(x))
        z = self.bn2(torch.einsum("bml,bl->bm", self.fc_phi(g).reshape(-1, 32, 32), z)) + z
        return self.cls_p(z) + hard_sigmoid(self.fc_scale(g)) * self.cls(x)


class PublishedODConv(nn.Module):
    """An ODConv convolution; its linear maps are stored as 1x1 convolutions."""

    def __init__(
        self, c_in: int, c_out: int, k: int = 1, stride: int = 1, groups: int = 1, *, num_kernels: int = 4
    ) -> None:
        super().__init__()
        self.arguments = (stride, k // 2, groups)
        self.weight = nn.Parameter(
            torch.randn(num_kernels, c_out, c_in // groups, k, k) * (c_in // groups * k * k) ** -0.5
        )
        self.attention = PublishedODAttention(c_in, c_out, k, groups, num_kernels)

    def forward(self, x: Tensor) -> Tensor:
        channel, filters, spatial, kernels = self.attention(x)
        stride, padding, groups = self.arguments
        out = []
        for b in range(len(x)):
            weight = torch.einsum("k,koihw->oihw", kernels[b], self.weight) * spatial[b]
            y = F.conv2d(x[b : b + 1] * channel[b][:, None, None], weight, None, stride, padding, 1, groups)
            out.append(y * filters[b][:, None, None])
        return torch.cat(out)


class PublishedODAttention(nn.Module):
    """The four attentions; those that the published code leaves out are 1."""

    def __init__(self, c_in: int, c_out: int, k: int, groups: int, num_kernels: int) -> None:
        super().__init__()
        hidden = max(int(c_in * 0.0625), 16)
        self.sizes = (c_out, k, num_kernels)
        self.fc = nn.Conv2d(c_in, hidden, 1, bias=False)
        self.bn = nn.BatchNorm2d(hidden)
        self.channel_fc = nn.Conv2d(hidden, c_in, 1)
        if not (groups == c_in == c_out):
            self.filter_fc = nn.Conv2d(hidden, c_out, 1)
        if k > 1:
            self.spatial_fc = nn.Conv2d(hidden, k * k, 1)
        if num_kernels > 1:
            self.kernel_fc = nn.Conv2d(hidden, num_kernels, 1)
        for name, parameter in self.named_parameters():
            if name.endswith("_fc.weight"):
                # Stronger attention makes fifty random layers so sensitive that rounding in float64 shows.
                parameter.data.mul_(0.3)

    def head(self, name: str, h: Tensor) -> Tensor | None:
        module = getattr(self, name, None)
        return None if module is None else module(h).flatten(1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        c_out, k, num_kernels = self.sizes
        h = F.relu(self.bn(self.fc(F.adaptive_avg_pool2d(x, 1))))
        kernels = self.head("kernel_fc", h)
        filters, spatial = self.head("filter_fc", h), self.head("spatial_fc", h)
        return (
            torch.sigmoid(self.channel_fc(h)).flatten(1),
            x.new_ones(len(x), c_out) if filters is None else torch.sigmoid(filters),
            (x.new_ones(len(x), k * k) if spatial is None else torch.sigmoid(spatial)).reshape(-1, 1, 1, k, k),
            x.new_ones(len(x), num_kernels) if kernels is None else torch.softmax(kernels, 1),
        )
