"""The dynamic branch: from the context of an input to the coefficients of its kernel."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.ops import full_precision

LENGTH_EPSILON = 1e-4
"""Added to the squared length of a hidden vector; keeps the gradient finite where every unit is off."""
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "gelu": F.gelu,
    "hardswish": F.hardswish,
}


def context_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type a branch computes in: float32, or float64 for float64 inputs."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class BranchLinear(nn.Linear):
    """A linear map that computes in its input's type and knows how it starts.

    Args:
        in_features, out_features: Lengths of input and output.
        std: Standard deviation of fresh weights, the bias then starts at zero; None starts as `torch.nn.Linear` does.
        device, dtype: Of the parameters.
        bias: Whether there is one.
        bound: Each row w of the weight acts as w / sqrt(1 + |w|^2 / bound^2); None: as it is.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        std: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = False,
        bound: float | None = None,
    ) -> None:
        self.std, self.bound = std, bound
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw the weight anew."""
        if self.std is None:
            super().reset_parameters()
        else:
            nn.init.normal_(self.weight, std=self.std)
            if self.bias is not None:
                nn.init.zeros_(self.bias)

    def neutralise(self) -> None:
        """Give zeros whatever the input."""
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def is_neutral(self) -> bool:
        """Whether it gives zeros whatever the input."""
        return not any(tensor.any() for tensor in self.parameters())

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(B, in_features)`` to ``(B, out_features)`` in the input's dtype, whatever the weight's."""
        bias: Tensor | None = self.bias
        return F.linear(input, self.acting(self.weight.to(input.dtype)), None if bias is None else bias.to(input.dtype))

    def acting(self, weight: Tensor) -> Tensor:
        """The weight as it acts, ``(out_features, in_features)``, of the weight in the type and place to compute in."""
        if self.bound is None:
            return weight
        return weight * torch.rsqrt(1 + weight.square().sum(1, keepdim=True) / self.bound**2)


class DynamicBranch(nn.Module):
    """Context -> linear -> activation -> one linear map (a head) for each kind of coefficient.

    Computes in float32 (float64 for float64 contexts) whatever the weights' type and also under autocast, because its
    outputs scale whole channels.

    Args:
        in_features: Length of the context.
        hidden_channels: Width between the two linear maps.
        heads: Name and length of each output.
        activation: A key of `ACTIVATIONS`, or ``gate``: h -> h * hsig(F2 h) with hsig(t) = relu6(t + 3) / 3.
        unit_hidden: Divide the activated hidden vector by its length, so that the first map's scale has no effect.
        gain: Factor on every output; it sets how fast coefficients move at a given learning rate.
        std: Standard deviation of fresh outputs' weights, gain included; the first map starts at unit gain where its
            scale has no effect. None starts every map as `torch.nn.Linear` does.
        device, dtype: Of the weights.
        squeeze_bias, head_bias: Whether the first map, and the heads, have a bias.
        keeps_length: Start the first map, which then has a bias, so that the hidden vector determines the context, its
            length included; for contexts of a few numbers.
        bounds: Bound of the rows of heads by name, see `BranchLinear`; a head that is not named has none.
    """

    def __init__(
        self,
        in_features: int,
        hidden_channels: int,
        heads: Mapping[str, int],
        *,
        activation: str = "relu",
        unit_hidden: bool = True,
        gain: float = 1.0,
        std: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        squeeze_bias: bool = False,
        head_bias: bool = False,
        keeps_length: bool = False,
        bounds: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.keeps_length = keeps_length
        self.activation = activation
        self.unit_hidden = unit_hidden
        self.gain = gain
        first = None if std is None else in_features**-0.5 if unit_hidden else std
        self.squeeze = BranchLinear(
            in_features, hidden_channels, first, device, dtype, bias=squeeze_bias or keeps_length
        )
        std = None if std is None else std / gain
        if activation == "gate":
            self.gate = BranchLinear(hidden_channels, hidden_channels, std, device, dtype)
        self.heads = nn.ModuleDict(
            {
                name: BranchLinear(
                    hidden_channels, size, std, device, dtype, bias=head_bias, bound=(bounds or {}).get(name)
                )
                for name, size in heads.items()
            }
        )

    def reset_parameters(self) -> None:
        """Draw every weight anew."""
        for module in self.modules():
            if isinstance(module, BranchLinear):
                module.reset_parameters()
        if self.keeps_length:
            self._draw_pairs()

    def _draw_pairs(self) -> None:
        """Start the first map with pairs of opposite rows and a last unit that is 1 whatever the context."""
        weight, bias = self.squeeze.weight, self.squeeze.bias
        pairs = (weight.shape[0] - 1) // 2
        with torch.no_grad():
            if pairs:
                # In float32, because half-precision types have no QR decomposition.
                rows = nn.init.orthogonal_(torch.empty(pairs, weight.shape[1], device=weight.device))
                weight[: 2 * pairs] = torch.cat((rows, -rows))
            bias.zero_()
            if len(bias) > 1:
                weight[-1] = 0
                bias[-1] = 1

    def neutralise(self) -> None:
        """Make every head give zeros; gradients reach the heads first."""
        for head in self.heads.values():
            assert isinstance(head, BranchLinear)
            head.neutralise()

    @property
    def is_neutral(self) -> bool:
        """Whether every head gives zeros."""
        return all(head.is_neutral for head in self.heads.values())

    def forward(self, context: Tensor) -> dict[str, Tensor]:
        """Map ``(B, in_features)`` in float32 or float64 to one ``(B, size)`` tensor a head."""
        with full_precision(context.device):
            hidden = self.activated(self.squeeze(context))
            if self.unit_hidden:
                hidden = hidden * (self.gain * inverse_length(hidden))
            elif self.gain != 1:
                hidden = hidden * self.gain
            return {name: head(hidden) for name, head in self.heads.items()}

    def activated(self, hidden: Tensor) -> Tensor:
        """The activation, ``(B, hidden_channels)`` to the same shape."""
        if self.activation == "gate":
            return hidden * F.relu6(self.gate(hidden) + 3) / 3
        return ACTIVATIONS[self.activation](hidden)

    def extra_repr(self) -> str:
        """What holds no parameters."""
        return f"activation={self.activation!r}, unit_hidden={self.unit_hidden}, gain={self.gain}"


def inverse_length(hidden: Tensor) -> Tensor:
    """1 over the length of each row, ``(B, N)`` to ``(B, 1)``."""
    return torch.rsqrt(hidden.square().sum(1, keepdim=True) + LENGTH_EPSILON)
