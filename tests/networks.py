"""Networks that are not over images, built as their papers and libraries build them, in small widths."""

import itertools

import torch
from torch import Tensor, nn


class Wav2Letter(nn.Sequential):
    """Wav2Letter on a waveform (arXiv:1609.03193), as torchaudio builds it: 1-D convolutions with wide kernels."""

    def __init__(self, classes: int = 40, width: int = 25) -> None:
        wide = 8 * width
        layers = [nn.Conv1d(1, width, 250, stride=160, padding=45), nn.ReLU()]
        layers += [nn.Conv1d(width, width, 48, stride=2, padding=23), nn.ReLU()]
        for _ in range(7):
            layers += [nn.Conv1d(width, width, 7, padding=3), nn.ReLU()]
        layers += [nn.Conv1d(width, wide, 32, padding=16), nn.ReLU(), nn.Conv1d(wide, wide, 1), nn.ReLU()]
        super().__init__(*layers, nn.Conv1d(wide, classes, 1))


class Vocoder(nn.Module):
    """A HiFi-GAN generator (arXiv:2010.05646): transposed 1-D convolutions and dilated residual blocks."""

    def __init__(self, mel: int = 20, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Conv1d(mel, width, 7, padding=3)
        self.up, self.blocks = nn.ModuleList(), nn.ModuleList()
        for factor in (4, 2):
            self.up.append(nn.ConvTranspose1d(width, width // 2, 2 * factor, factor, padding=factor // 2))
            width //= 2
            self.blocks.append(
                nn.ModuleList(nn.Conv1d(width, width, 3, dilation=spacing, padding=spacing) for spacing in (1, 3, 5))
            )
        self.last = nn.Conv1d(width, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, mel, T)`` to ``(B, 1, 8 * T)``."""
        x = self.first(x)
        for up, block in zip(self.up, self.blocks, strict=True):
            x = up(nn.functional.leaky_relu(x, 0.1))
            for conv in block:
                x = x + conv(nn.functional.leaky_relu(x, 0.1))
        return torch.tanh(self.last(nn.functional.leaky_relu(x, 0.1)))


class UNet(nn.Module):
    """The U-Net of the paper (arXiv:1505.04597) with padding, batch norms and transposed convolutions to go up.

    Args:
        dims: Number of spatial axes; 3 is the 3-D U-Net (arXiv:1606.06650).
        in_channels, classes: Channels of input and output.
        widths: Channels of each level.
    """

    def __init__(
        self, dims: int = 2, in_channels: int = 3, classes: int = 3, widths: tuple[int, ...] = (8, 16, 32)
    ) -> None:
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        transposed = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dims]
        norm = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims]

        def double(inputs: int, outputs: int) -> nn.Sequential:
            layers = [conv(inputs, outputs, 3, padding=1, bias=False), norm(outputs), nn.ReLU()]
            return nn.Sequential(*layers, conv(outputs, outputs, 3, padding=1, bias=False), norm(outputs), nn.ReLU())

        self.pool = {2: nn.MaxPool2d, 3: nn.MaxPool3d}[dims](2)
        self.down = nn.ModuleList(double(*pair) for pair in zip((in_channels, *widths[:-1]), widths, strict=True))
        backwards = list(reversed(widths))
        self.up = nn.ModuleList(transposed(*pair, 2, stride=2) for pair in itertools.pairwise(backwards))
        self.merge = nn.ModuleList(double(2 * width, width) for width in backwards[1:])
        self.last = conv(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, *sizes)`` to ``(B, classes, *sizes)``; each size is a multiple of 4."""
        levels = []
        for number, block in enumerate(self.down):
            x = block(x if number == 0 else self.pool(x))
            levels.append(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(levels[:-1]), strict=True):
            x = merge(torch.cat([up(x), skip], dim=1))
        out: Tensor = self.last(x)
        return out
