"""The dynamic branch of FDConv: from the averaged input to the logits of its gates and gains."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.families.contract.branch import BranchLinear
from dynaconv.families.contract.norms import NORM_EPSILON, LatentBatchNorm2d, normalise
from dynaconv.ops import full_precision

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


class FDConvBranch(nn.Module):
    """Context -> linear -> batch norm -> StarReLU -> one linear map with bias (a head) for each kind of coefficient.

    Computes in float32 (float64 for float64 contexts), for any dtype of the weights and also under autocast. A single
    context in train mode is normalised by running statistics, because one value has no variance.

    Args:
        in_features: Length of the context.
        hidden_channels: Number of hidden units.
        heads: Name and number of logits of each coefficient.
        temperatures: Divisor of the logits of each head.
        local: Arguments of `LocalLogits`, which reads the averaged input; None for no such logits.
        device, dtype: Device and dtype of the weights.
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
        super().__init__()
        self.temperatures = dict(temperatures)
        self.squeeze = BranchLinear(in_features, hidden_channels, math.sqrt(2 / hidden_channels), device, dtype)
        self.norm: nn.Module = LatentBatchNorm2d(hidden_channels, device=device, dtype=dtype)
        self.activation = StarReLU(device, dtype)
        self.heads = nn.ModuleDict(
            {name: BranchLinear(hidden_channels, size, _STD, device, dtype, bias=True) for name, size in heads.items()}
        )
        self.local = None if local is None else LocalLogits(*local, device, dtype)

    def reset_parameters(self) -> None:
        """Initialise every weight, set every bias to zero and reset the running statistics."""
        for module in (self.squeeze, self.norm, self.activation, *self.heads.values(), self.local):
            if module is not None:
                module.reset_parameters()  # type: ignore[operator]

    def neutralise(self) -> None:
        """Set every head and the local logits to zero. At first, only these then get gradients."""
        for head in (*self.heads.values(), self.local):
            if head is not None:
                head.neutralise()  # type: ignore[operator]

    @property
    def is_neutral(self) -> bool:
        """Whether every logit is zero for every input."""
        return all(head.is_neutral for head in (*self.heads.values(), self.local) if head is not None)

    def forward(self, context: Tensor, *, track: bool = True) -> dict[str, Tensor]:
        """Map ``(B, in_features)`` in float32 or float64 to one ``(B, size)`` tensor of scaled logits per head.

        Args:
            context: The averaged input.
            track: Whether train mode updates the running statistics.
        """
        with full_precision(context.device):
            hidden = self.activation(normalise(self.norm, self.squeeze(context), track=track))
            return {name: self._scaled(name, head(hidden)) for name, head in self.heads.items()}

    def _scaled(self, name: str, logits: Tensor) -> Tensor:
        temperature = self.temperatures[name]
        return logits if temperature == 1 else logits / temperature
