"""A small network whose dynamic layer is written out by hand, so that statistics can be checked with numpy."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn


class ToyCoefficients(NamedTuple):
    scale: Tensor
    fusion: Tensor | None


class ToyDynamic(nn.Module):
    """Scales its input by 1 + a linear map of the pooled input; answers `coefficients` as dynamic layers do."""

    def __init__(self, channels: int, latent: int = 3) -> None:
        super().__init__()
        self.latent = latent
        self.channels = channels
        self.branch = nn.Linear(channels, channels + latent * latent, bias=False)

    def coefficients(self, x: Tensor) -> ToyCoefficients:
        numbers = self.branch(x.mean(dim=(2, 3)))
        scale, fusion = numbers[:, : self.channels], numbers[:, self.channels :]
        return ToyCoefficients(1 + scale, fusion.view(-1, self.latent, self.latent) if self.latent else None)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.coefficients(x).scale[:, :, None, None]
