"""Dynamic layers as people write them today, to measure ours against: one operator after the other, as published."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.cond_conv2d import CondConv2d as TimmCondConv2d
from torch import Tensor, nn

from dynaconv.conversion.swap import replace_module
from dynaconv.families import DCDConv2d, DCDLinear


class LiteralDCD(nn.Module):
    """The published structure of a DCD layer, from one of ours with ``norm="batch"``, whose parameters it takes over.

    Phi is applied to the latent features between two batch norms, Lambda to the output of the static convolution; see
    `dynaconv.families.dcd.reference.reference_normalised_dcd` for the equation.
    """

    def __init__(self, layer: DCDConv2d | DCDLinear) -> None:
        super().__init__()
        assert layer.config.norm == "batch"
        assert layer.p is not None
        assert layer.q is not None
        self.layer = layer
        self.linear = isinstance(layer, DCDLinear)
        self.stride = (1, 1) if isinstance(layer, DCDLinear) else layer.stride
        self.pool = nn.AdaptiveAvgPool2d(1 if self.linear else layer.config.context_size)
        self.p = nn.Parameter(layer.p.detach()[:, :, None, None].clone())
        self.q = nn.Parameter(layer.q.detach().T[:, :, None, None].clone())
        latent = self.q.shape[0]
        self.norm1, self.norm2 = nn.BatchNorm2d(latent), nn.BatchNorm1d(latent)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C_in, H, W)``, or ``(B, C_in)`` of a linear layer."""
        image = x[:, :, None, None] if self.linear else x
        branch = self.layer.branch
        hidden = branch.squeeze(self.pool(image).flatten(1))
        hidden = hidden * F.relu6(branch.gate(hidden) + 3) / 3
        latent = self.q.shape[0]
        phi = branch.heads["fusion"](hidden).view(-1, latent, latent)
        scale = F.relu6(branch.heads["scale"](hidden) + 3) / 3
        if isinstance(self.layer, DCDLinear):
            static = F.linear(x, self.layer.weight, self.layer.bias)[:, :, None, None]
        else:
            static = F.conv2d(x, self.layer.weight, None, self.stride, self.layer.padding)
        z = self.norm1(F.conv2d(image, self.q, None, self.stride))
        flat = z.flatten(2)
        flat = self.norm2(torch.bmm(phi, flat)) + flat
        out = F.conv2d(flat.view_as(z), self.p) + static * scale[:, :, None, None]
        return out.flatten(1) if self.linear else out


class LiteralCondConv(nn.Module):
    """timm's CondConv2d with its routing: the batch folded into groups."""

    def __init__(self, conv: nn.Conv2d, num_experts: int = 8) -> None:
        super().__init__()
        self.routing = nn.Linear(conv.in_channels, num_experts)
        geometry: dict[str, Any] = {
            name: getattr(conv, name) for name in ("kernel_size", "stride", "padding", "dilation", "groups")
        }
        self.conv = TimmCondConv2d(conv.in_channels, conv.out_channels, **geometry, num_experts=num_experts)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C_in, H, W)``."""
        out: Tensor = self.conv(x, torch.sigmoid(self.routing(F.adaptive_avg_pool2d(x, 1).flatten(1))))
        return out


def literal_dcd(model: nn.Module) -> nn.Module:
    """Replace every layer of a ``dcd_..._published`` network by its literal structure, in place."""
    return _replace(model, lambda layer: LiteralDCD(layer) if isinstance(layer, (DCDConv2d, DCDLinear)) else None)


def literal_condconv(model: nn.Module) -> nn.Module:
    """Replace every convolution of a static network but the first by timm's CondConv, in place."""
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    return _replace(
        model, lambda layer: LiteralCondConv(layer) if type(layer) is nn.Conv2d and layer is not first else None
    )


def _replace(model: nn.Module, make: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    for name, module in list(model.named_modules()):
        if (new := make(module)) is not None:
            replace_module(model, [name], new)
    return model
