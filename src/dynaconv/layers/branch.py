"""The dynamic branch: from the context of an input to the coefficients of its kernel."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


class DynamicBranch(nn.Module):
    """Context -> linear -> activation -> one linear map (a head) for each kind of coefficient, all without bias.

    Computes in float32 (float64 for float64 contexts) whatever the weights' type and also under autocast, because its
    outputs scale whole channels.

    Args:
        in_features: Length of the context.
        hidden_channels: Width between the two linear maps.
        heads: Name and length of each output.
        activation: A key of `ACTIVATIONS`, or ``gate``: h -> h * hsig(F2 h) with hsig(t) = relu6(t + 3) / 3.
        normalise: Layer-normalise the context first, without learned scale and shift.
        unit_hidden: Divide the activated hidden vector by its length, so that the first map's scale has no effect.
        gain: Factor on every output; it sets how fast coefficients move at a given learning rate.
        device, dtype: Of the weights.
    """

    def __init__(
        self,
        in_features: int,
        hidden_channels: int,
        heads: Mapping[str, int],
        *,
        activation: str = "relu",
        normalise: bool = True,
        unit_hidden: bool = True,
        gain: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.normalise = normalise
        self.unit_hidden = unit_hidden
        self.gain = gain
        self.squeeze = nn.Linear(in_features, hidden_channels, bias=False, device=device, dtype=dtype)
        if activation == "gate":
            self.gate = nn.Linear(hidden_channels, hidden_channels, bias=False, device=device, dtype=dtype)
        self.heads = nn.ModuleDict(
            {
                name: nn.Linear(hidden_channels, size, bias=False, device=device, dtype=dtype)
                for name, size in heads.items()
            }
        )

    def reset_parameters(self, std: float | None) -> None:
        """Draw every weight from N(0, std^2), but the first map at unit gain where its scale has no effect.

        Args:
            std: With None every map starts as `torch.nn.Linear` does.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                if std is None:
                    module.reset_parameters()
                else:
                    unit = module is self.squeeze and self.unit_hidden
                    nn.init.normal_(module.weight, std=module.in_features**-0.5 if unit else std)

    def forward(self, context: Tensor) -> dict[str, Tensor]:
        """Map ``(B, in_features)`` in float32 or float64 to one ``(B, size)`` tensor a head."""
        if context.device.type != "meta" and torch.is_autocast_enabled(context.device.type):
            with torch.autocast(context.device.type, enabled=False):
                return self._compute(context)
        return self._compute(context)

    def _compute(self, context: Tensor) -> dict[str, Tensor]:
        if self.normalise:
            context = F.layer_norm(context, context.shape[-1:])
        hidden = _linear(context, self.squeeze)
        if self.activation == "gate":
            hidden = hidden * F.relu6(_linear(hidden, self.gate) + 3) / 3
        else:
            hidden = ACTIVATIONS[self.activation](hidden)
        if self.unit_hidden:
            # The small term keeps the gradient finite where every unit is off.
            hidden = hidden * torch.rsqrt(hidden.square().sum(1, keepdim=True) + 1e-4)
        if self.gain != 1:
            hidden = hidden * self.gain
        return {name: _linear(hidden, head) for name, head in self.heads.items()}

    def extra_repr(self) -> str:
        """What holds no parameters."""
        normal = f"normalise={self.normalise}, unit_hidden={self.unit_hidden}"
        return f"activation={self.activation!r}, {normal}, gain={self.gain}"


def _linear(x: Tensor, linear: nn.Module) -> Tensor:
    assert isinstance(linear, nn.Linear)
    return F.linear(x, linear.weight.to(x.dtype))
