"""The dynamic branch: from the context of an input to the coefficients of its kernel."""

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.families.contract.norms import LatentBatchNorm2d, normalise
from dynaconv.ops import full_precision

LENGTH_EPSILON = 1e-4
"""Added to the squared length of a hidden vector; keeps the gradient finite if every unit is zero."""
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "squared_relu": lambda hidden: F.relu(hidden).square(),
    "silu": F.silu,
    "gelu": F.gelu,
    "hardswish": F.hardswish,
}


def context_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which a branch computes: float32, or float64 for float64 inputs."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class BranchLinear(nn.Linear):
    """A linear layer that computes in the dtype of its input and has a configurable initialisation.

    Args:
        in_features, out_features: Lengths of input and output.
        std: Standard deviation of the initial weight, with an initial bias of zero. None: initialise as
            `torch.nn.Linear` does.
        device, dtype: Device and dtype of the parameters.
        bias: Whether the layer has a bias.
        bound: Upper limit of the length of a row: each row w of the weight is used as w / sqrt(1 + |w|^2 / bound^2).
            None: no limit.
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
        """Initialise weight and bias."""
        if self.std is None:
            super().reset_parameters()
        else:
            nn.init.normal_(self.weight, std=self.std)
            if self.bias is not None:
                nn.init.zeros_(self.bias)

    def neutralise(self) -> None:
        """Set the parameters to zero, so that the output is zero for every input."""
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def is_neutral(self) -> bool:
        """Whether the output is zero for every input."""
        return not any(tensor.any() for tensor in self.parameters())

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(B, in_features)`` to ``(B, out_features)`` in the dtype of the input."""
        bias: Tensor | None = self.bias
        return F.linear(
            input, self.effective_weight(self.weight.to(input.dtype)), None if bias is None else bias.to(input.dtype)
        )

    def effective_weight(self, weight: Tensor) -> Tensor:
        """Return the weight, ``(out_features, in_features)``, with `bound` applied to its rows."""
        return weight if self.bound is None else bounded_rows(weight, self.bound)


def bounded_rows(weight: Tensor, bound: float) -> Tensor:
    """Return each row w as w / sqrt(1 + |w|^2 / bound^2), whose length is below ``bound``."""
    return weight * torch.rsqrt(1 + weight.square().sum(1, keepdim=True) / bound**2)


class DynamicBranch(nn.Module):
    """Context -> linear -> activation -> one linear map (a head) for each kind of coefficient.

    Computes in float32 (float64 for float64 contexts), for any dtype of the weights and also under autocast, because
    its outputs scale whole channels.

    Args:
        in_features: Length of the context.
        hidden_channels: Number of hidden units, between the two linear maps.
        heads: Name and length of each output.
        activation: A key of `ACTIVATIONS`, or ``gate``: h -> h * hsig(F2 h) with hsig(t) = relu6(t + 3) / 3.
        unit_hidden: Divide the activated hidden vector by its length, so that the first map's scale has no effect.
        gain: Factor on every output; it sets how fast coefficients change at a given learning rate.
        std: Standard deviation of the initial weights: of the heads and the gate times `gain`, and of the first map.
            With `unit_hidden`, the first map has unit gain instead. None: initialise as `torch.nn.Linear` does.
        device, dtype: Device and dtype of the weights.
        squeeze_bias, head_bias: Whether the first map, and the heads, have a bias.
        keeps_length: Give the first map a bias, and initialise it such that the hidden vector determines the context,
            including its length; for contexts with few features.
        bounds: Bound of the rows of each head by name, see `BranchLinear`; other heads have no bound.
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
        """Initialise every parameter."""
        for module in self.modules():
            if isinstance(module, BranchLinear):
                module.reset_parameters()
        if self.keeps_length:
            self._draw_pairs()

    def _draw_pairs(self) -> None:
        """Initialise the first map with pairs of opposite rows and a last unit that is 1 for every context."""
        weight, bias = self.squeeze.weight, self.squeeze.bias
        pairs = (weight.shape[0] - 1) // 2
        with torch.no_grad():
            if pairs:
                # In float32, because half-precision dtypes have no QR decomposition.
                rows = nn.init.orthogonal_(torch.empty(pairs, weight.shape[1], device=weight.device))
                weight[: 2 * pairs] = torch.cat((rows, -rows))
            bias.zero_()
            if len(bias) > 1:
                weight[-1] = 0
                bias[-1] = 1

    def neutralise(self) -> None:
        """Set every head to zero. At first, only the heads then get gradients."""
        for head in self.heads.values():
            assert isinstance(head, BranchLinear)
            head.neutralise()

    @property
    def is_neutral(self) -> bool:
        """Whether the output of every head is zero for every input."""
        return all(head.is_neutral for head in self.heads.values())

    def forward(self, context: Tensor) -> dict[str, Tensor]:
        """Map ``(B, in_features)`` in float32 or float64 to one ``(B, size)`` tensor per head."""
        with full_precision(context.device):
            hidden = self.activated(self.squeeze(context))
            if self.unit_hidden:
                hidden = hidden * (self.gain * inverse_length(hidden))
            elif self.gain != 1:
                hidden = hidden * self.gain
            return {name: head(hidden) for name, head in self.heads.items()}

    def activated(self, hidden: Tensor) -> Tensor:
        """Apply the activation to hidden units ``(B, hidden_channels)``."""
        if self.activation == "gate":
            return hidden * F.relu6(self.gate(hidden) + 3) / 3
        return ACTIVATIONS[self.activation](hidden)

    def extra_repr(self) -> str:
        """Settings that are not parameters."""
        return f"activation={self.activation!r}, unit_hidden={self.unit_hidden}, gain={self.gain}"


class NormedBranch(nn.Module):
    """Context -> linear -> batch norm -> activation -> one linear map with bias (a head) for each kind of coefficient.

    Computes in float32 (float64 for float64 contexts), for any dtype of the weights and also under autocast. A single
    context in train mode is normalised by running statistics, because one value has no variance.

    Args:
        in_features: Length of the context.
        hidden_channels: Number of hidden units.
        heads: Name and number of logits of each coefficient.
        activation: The activation, with trained parameters; None: ReLU.
        std: Standard deviation of the initial weights of the heads; None: `kaiming_std` of their size.
        device, dtype: Device and dtype of the weights.
    """

    def __init__(
        self,
        in_features: int,
        hidden_channels: int,
        heads: Mapping[str, int],
        *,
        activation: nn.Module | None = None,
        std: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.squeeze = BranchLinear(in_features, hidden_channels, kaiming_std(hidden_channels), device, dtype)
        self.norm: nn.Module = LatentBatchNorm2d(hidden_channels, device=device, dtype=dtype)
        self.activation = activation
        self.heads = nn.ModuleDict(
            {
                name: BranchLinear(hidden_channels, size, std or kaiming_std(size), device, dtype, bias=True)
                for name, size in heads.items()
            }
        )

    def outputs(self) -> list[nn.Module]:
        """Return the modules whose outputs are logits."""
        return list(self.heads.values())

    def reset_parameters(self) -> None:
        """Initialise every weight, set every bias to zero and reset the running statistics."""
        for module in (self.squeeze, self.norm, self.activation, *self.outputs()):
            if module is not None:
                module.reset_parameters()  # type: ignore[operator]

    def neutralise(self) -> None:
        """Set every logit to zero. At first, only the `outputs` then get gradients."""
        for module in self.outputs():
            module.neutralise()  # type: ignore[operator]

    @property
    def is_neutral(self) -> bool:
        """Whether every logit is zero for every input."""
        return all(module.is_neutral for module in self.outputs())

    def forward(self, context: Tensor, *, track: bool = True) -> dict[str, Tensor]:
        """Map ``(B, in_features)`` in float32 or float64 to one ``(B, size)`` tensor of logits per head.

        Args:
            context: The averaged input.
            track: Whether train mode updates the running statistics.
        """
        with full_precision(context.device):
            hidden = normalise(self.norm, self.squeeze(context), track=track)
            hidden = F.relu(hidden) if self.activation is None else self.activation(hidden)
            return {name: head(hidden) for name, head in self.heads.items()}


def kaiming_std(fan_out: int) -> float:
    """Return the standard deviation of Kaiming normal initialisation by fan-out, for ReLU."""
    return math.sqrt(2 / fan_out)


def inverse_length(hidden: Tensor) -> Tensor:
    """Return 1 / the length of each row, ``(B, N)`` to ``(B, 1)``."""
    return torch.rsqrt(hidden.square().sum(1, keepdim=True) + LENGTH_EPSILON)
