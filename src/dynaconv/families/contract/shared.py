"""A context that a network computes once and gives to several layers."""

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from dynaconv.families.contract.branch import ACTIVATIONS, BranchLinear, context_dtype
from dynaconv.families.contract.checks import check_choice, check_integer, check_real, checked_mask
from dynaconv.families.contract.norms import CONTEXT_NORMS, make_context_norm, normalise
from dynaconv.families.contract.operator import record_call
from dynaconv.ops import full_precision, pool_context


class SharedContext(nn.Module):
    """Computes one context for several layers: average pool -> norm -> linear map with bias -> activation.

    The network passes the result to each layer, ``layer(x, context)``, so it is clear which context a layer reads. The
    layers are built with ``context_features=features``.

    Args:
        channels: C, the channels of the feature map.
        features: F, the length of the context.
        context_norm: Norm of the averages, as the option of the layers.
        activation: ``relu``, ``relu6``, ``squared_relu``, ``silu``, ``gelu``, ``hardswish``, or None for none.
        device, dtype: Device and dtype of the parameters.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> shared = SharedContext(64, 16)
        >>> first, second = (CondConv2d(64, 64, 3, padding=1, context_features=16) for _ in range(2))
        >>> context = shared(x)
        >>> y = second(first(x, context), context)
    """

    def __init__(
        self,
        channels: int,
        features: int,
        *,
        context_norm: str | None = None,
        activation: str | None = "relu",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = check_integer("channels", channels)
        self.features = check_integer("features", features)
        check_choice("context_norm", context_norm, CONTEXT_NORMS)
        check_choice("activation", activation, (*ACTIVATIONS, None))
        self.activation = activation
        self.context_norm = make_context_norm(context_norm, channels, device, dtype)
        self.linear = BranchLinear(channels, features, None, device, dtype, bias=True)
        check_real(self.linear.weight)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the context ``(B, features)`` of ``(B, channels, *sizes)``, in float32 (float64 for float64 inputs).

        Args:
            x: Feature map with at least one axis of positions.
            mask: Positions to average, ``(B, *sizes)`` or ``(B, 1, *sizes)``, bool or 0 and 1. None: all.

        Raises:
            ValueError: the feature map or the mask has an invalid shape, or the feature map is complex.
        """
        if isinstance(x, Proxy):
            out: Tensor = record_call(self, x, **({} if mask is None else {"mask": mask}))
            return out
        check_real(x)
        if x.dim() < 3 or x.shape[1] != self.channels:
            raise ValueError(
                f"SharedContext was built for feature maps (batch, {self.channels}, *sizes); got {tuple(x.shape)}."
            )
        if mask is not None:
            mask = checked_mask(mask, x.shape[0], x.shape[2:], "SharedContext")
        with full_precision(x.device):
            context: Tensor = self.linear(
                normalise(self.context_norm, pool_context(x, 1, context_dtype(x.dtype), mask))
            )
            return context if self.activation is None else ACTIVATIONS[self.activation](context)

    def extra_repr(self) -> str:
        """Settings that are not modules."""
        return f"{self.channels}, {self.features}, activation={self.activation!r}"
