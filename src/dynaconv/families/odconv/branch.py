"""The dynamic branch of ODConv: from the averaged input to the logits of its four attentions."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.families.contract.branch import BranchLinear
from dynaconv.families.contract.norms import LatentBatchNorm2d, normalise
from dynaconv.ops import full_precision


class ODConvBranch(nn.Module):
    """Context -> linear -> batch norm -> ReLU -> one linear map with bias (a head) for each attention.

    Computes in float32 (float64 for float64 contexts), for any dtype of the weights and also under autocast. A single
    context in train mode is normalised by running statistics, because one value has no variance.

    Args:
        in_features: Length of the context.
        hidden_channels: Number of hidden units.
        heads: Name and number of logits of each attention.
        device, dtype: Device and dtype of the weights.
    """

    def __init__(
        self,
        in_features: int,
        hidden_channels: int,
        heads: Mapping[str, int],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.squeeze = BranchLinear(in_features, hidden_channels, _std(hidden_channels), device, dtype)
        self.norm: nn.Module = LatentBatchNorm2d(hidden_channels, device=device, dtype=dtype)
        self.heads = nn.ModuleDict(
            {
                name: BranchLinear(hidden_channels, size, _std(size), device, dtype, bias=True)
                for name, size in heads.items()
            }
        )

    def reset_parameters(self) -> None:
        """Initialise every weight, set every bias to zero and reset the running statistics."""
        for module in (self.squeeze, self.norm, *self.heads.values()):
            module.reset_parameters()  # type: ignore[operator]

    def shrink_heads(self, factor: float) -> None:
        """Multiply the weights of every head by a factor."""
        with torch.no_grad():
            for head in self.heads.values():
                assert isinstance(head, BranchLinear)
                head.weight.mul_(factor)

    def neutralise(self) -> None:
        """Set every head to zero. At first, only the heads then get gradients."""
        for head in self.heads.values():
            assert isinstance(head, BranchLinear)
            head.neutralise()

    @property
    def is_neutral(self) -> bool:
        """Whether the output of every head is zero for every input."""
        return all(head.is_neutral for head in self.heads.values())

    def forward(self, context: Tensor, *, track: bool = True) -> dict[str, Tensor]:
        """Map ``(B, in_features)`` in float32 or float64 to one ``(B, size)`` tensor of logits per head.

        Args:
            context: The averaged input.
            track: Whether train mode updates the running statistics.
        """
        with full_precision(context.device):
            hidden = F.relu(normalise(self.norm, self.squeeze(context), track=track))
            return {name: head(hidden) for name, head in self.heads.items()}


def _std(fan_out: int) -> float:
    """Return the standard deviation of Kaiming normal initialisation by fan-out, for ReLU."""
    return math.sqrt(2 / fan_out)
