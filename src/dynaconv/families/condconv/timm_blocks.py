"""timm's CondConv blocks (``tf_efficientnet_cc_b0_4e`` and others) with our layers; timm itself is not imported."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.families.condconv.layer import CondConv2d
from dynaconv.families.contract.static import copy_hooks_and_attributes
from dynaconv.ops import pool_context

CONVOLUTIONS = ("conv_pw", "conv_dw", "conv_pwl")


class CondConvResidual(nn.Module):
    """An inverted residual block whose three CondConv layers read the block's averaged input.

    Children have the names of timm's block. timm computes one routing for the three layers; here each has a copy of
    its router, which is trained by itself. A layer that was frozen, and so takes no context, can stand in each place.

    Args:
        block: A ``CondConvResidual`` of timm, whose other children become those of this module.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.has_skip: bool = block.has_skip
        self.same_padding = {name: block.get_submodule(name).dynamic_padding for name in CONVOLUTIONS}
        for name, child in block.named_children():
            if name in CONVOLUTIONS:
                child = adopted_layer(child, block.routing_fn)
            if name != "routing_fn":
                self.add_module(name, child)
        copy_hooks_and_attributes(block, self)
        self.training = block.training

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C_in, H, W)`` to ``(B, C_out, H_out, W_out)``."""
        children: Any = self
        context = pool_context(x, 1, x.dtype)
        out = children.bn1(self._convolved("conv_pw", x, context))
        out = children.bn2(self._convolved("conv_dw", out, context))
        out = children.se(out)
        out = children.bn3(self._convolved("conv_pwl", out, context))
        if self.has_skip:
            out = children.drop_path(out) + x
        result: Tensor = out
        return result

    def _convolved(self, name: str, x: Tensor, context: Tensor) -> Tensor:
        layer: Any = self.get_submodule(name)
        if self.same_padding[name]:
            x = _pad_same(x, layer)
        out: Tensor = layer(x) if getattr(layer, "context_features", None) is None else layer(x, context)
        return out


def adopt_condconv(block: nn.Module) -> CondConvResidual | None:
    """Return a block that computes the function of timm's CondConv block; None for any other module."""
    kind = type(block)
    is_block = kind.__name__ == "CondConvResidual" and kind.__module__.partition(".")[0] == "timm"
    return CondConvResidual(block) if is_block else None


def adopted_layer(conv: Any, router: nn.Linear) -> CondConv2d:
    """Return the layer with the kernels of a ``timm.layers.CondConv2d`` and a copy of its block's router."""
    layer = CondConv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        0 if conv.dynamic_padding else conv.padding,
        conv.dilation,
        conv.groups,
        bias=conv.bias is not None,
        device="meta",
        dtype=conv.weight.dtype,
        num_experts=conv.num_experts,
        context_features=router.in_features,
    )
    sources = [(layer, "weight", conv.weight), (layer.branch, "weight", router.weight)]
    sources += [(layer.branch, "bias", router.bias)] + ([] if conv.bias is None else [(layer, "bias", conv.bias)])
    for owner, name, value in sources:
        copy = value.detach().clone().reshape(owner.get_parameter(name).shape)
        setattr(owner, name, nn.Parameter(copy, requires_grad=value.requires_grad))
    copy_hooks_and_attributes(conv, layer)
    return layer.train(conv.training)


def _pad_same(x: Tensor, layer: Any) -> Tensor:
    """Pad as TensorFlow does: the output has ceil(size / stride) pixels, and the end gets the odd pixel."""
    pads: list[int] = []
    for axis in (1, 0):
        size, stride = x.shape[2 + axis], layer.stride[axis]
        reach = (layer.kernel_size[axis] - 1) * layer.dilation[axis]
        total = max((-(-size // stride) - 1) * stride + reach + 1 - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)
