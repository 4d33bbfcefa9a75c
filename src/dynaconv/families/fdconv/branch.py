"""The dynamic branch of FDConv: from the averaged input to the logits of its gates and gains."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.families.contract.branch import NormedBranch
from dynaconv.families.contract.norms import NORM_EPSILON

_STD = 1e-3
"""Standard deviation of the initial weights of heads and local logits; the published 1e-6 hardly trains the rest."""


class StarReLU(nn.Module):
    """t -> scale * relu(t)^2 + bias, with two trained scalars."""

    def __init__(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(1, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """Set the scale to 1 and the bias to 0."""
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the activation in the dtype of the input."""
        return self.scale.to(input.dtype) * F.relu(input).square() + self.bias.to(input.dtype)


class LocalLogits(nn.Module):
    """Logits of a gate for each kernel element: layer norm of the context, then a convolution along the channels.

    Map (o, i, j) of the convolution at channel c is the logit of W[o, c, i, j].

    Args:
        channels: C_in, the length of the context.
        maps: C_out * k_h * k_w.
        device, dtype: Device and dtype of the parameters.
    """

    def __init__(
        self,
        channels: int,
        maps: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        width = local_width(channels)
        self.norm = nn.LayerNorm(channels, eps=NORM_EPSILON, device=device, dtype=dtype)
        self.conv = nn.Conv1d(1, maps, width, padding=width // 2, bias=False, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Reset the norm and draw the convolution's weight."""
        self.norm.reset_parameters()
        nn.init.normal_(self.conv.weight, std=_STD)

    def neutralise(self) -> None:
        """Set the convolution to zero, so that every logit is zero."""
        nn.init.zeros_(self.conv.weight)

    @property
    def is_neutral(self) -> bool:
        """Whether every logit is zero for every input."""
        return not self.conv.weight.any()

    def forward(self, context: Tensor) -> Tensor:
        """Map contexts ``(B, C_in)`` to logits ``(B, C_out * k_h * k_w, C_in)`` in the dtype of the context."""
        weight, bias = self.norm.weight.to(context.dtype), self.norm.bias.to(context.dtype)
        normed = F.layer_norm(context, context.shape[1:], weight, bias, self.norm.eps)
        width, channels = self.conv.weight.shape[-1], context.shape[1]
        padded = F.pad(normed, (width // 2, width // 2))
        windows = torch.stack([padded[:, start : start + channels] for start in range(width)], 1)  # (B, width, C_in)
        return self.conv.weight.flatten(1).to(context.dtype) @ windows


def local_width(channels: int) -> int:
    """Return the width of the convolution along ``channels`` channels, an odd number."""
    # Python rounds halves to even, as the published code does.
    return round(math.log2(channels) / 2 + 0.5) // 2 * 2 + 1


class FDConvBranch(NormedBranch):
    """A branch with StarReLU, whose logits are divided by temperatures, and optionally local logits.

    Args:
        in_features, hidden_channels, heads, device, dtype: See `NormedBranch`.
        temperatures: Divisor of the logits of each head.
        local: Arguments of `LocalLogits`, which reads the averaged input; None for no such logits.
    """

    local: LocalLogits | None

    def __init__(
        self,
        in_features: int,
        hidden_channels: int,
        heads: Mapping[str, int],
        *,
        temperatures: Mapping[str, float],
        local: tuple[int, int] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_features,
            hidden_channels,
            heads,
            activation=StarReLU(device, dtype),
            std=_STD,
            device=device,
            dtype=dtype,
        )
        self.temperatures = dict(temperatures)
        self.local = None if local is None else LocalLogits(*local, device, dtype)

    def outputs(self) -> list[nn.Module]:
        """Return the heads and the local logits."""
        return super().outputs() if self.local is None else [*super().outputs(), self.local]

    def forward(self, context: Tensor, *, track: bool = True) -> dict[str, Tensor]:
        """Return the logits of the heads, divided by their temperatures; see `NormedBranch`."""
        logits = super().forward(context, track=track)
        return {
            name: values if (temperature := self.temperatures[name]) == 1 else values / temperature
            for name, values in logits.items()
        }
