"""`convert(..., last_stages=N)`: stages by the size of feature maps, on networks of several layouts."""

import re

import timm
import torch
from torch import Tensor, nn

from dynaconv import convert, plan_conversion
from dynaconv.errors import ConversionError
from tests.messages import refuses


class UNet(nn.Module):
    """Two poolings, two upsamplings, and valid convolutions whose maps shrink a little."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
        self.up, self.out, self.unused = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.down1(x), 2)
        x = self.middle(nn.functional.max_pool2d(self.down2(x), 2))
        return self.out(self.up(nn.functional.interpolate(x, scale_factor=2)))


def test_the_last_stage_of_known_networks() -> None:
    resnet = timm.create_model("resnet18")
    for count, pattern in ((1, "layer4"), (2, "layer[34]"), (3, "layer[234]"), (9, "layer[1234]")):
        plan = plan_conversion(resnet, last_stages=count)
        wanted = [layer.name for layer in plan.layers if re.match(pattern, layer.name)]
        assert [layer.name for layer in plan.converted] == wanted
    assert "its output of 14x14 is not in the last stage" in str(plan_conversion(resnet, last_stages=1))
    mobilenet = plan_conversion(timm.create_model("mobilenetv3_small_050"), last_stages=1)
    names = [layer.name for layer in mobilenet.converted]
    assert names[0] == "blocks.4.0.conv_pwl"
    # It reads pooled features.
    assert names[-1] == "conv_head"
    assert all(name.startswith(("blocks.4", "blocks.5", "conv_head")) for name in names)


def test_a_stage_is_a_halving_whatever_makes_it() -> None:
    plan = plan_conversion(UNet(), last_stages=1, input_size=(3, 40, 36))
    assert [layer.name for layer in plan.converted] == ["middle"]
    reasons = {layer.name: layer.reason for layer in plan.layers}
    assert reasons["unused"] == "the model did not call it, so it is not in the last stage"
    two = plan_conversion(UNet(), last_stages=2)
    assert [layer.name for layer in two.converted] == ["down2", "middle", "up", "out"]


def test_it_combines_with_the_other_conditions_and_leaves_the_model_alone() -> None:
    net = timm.create_model("resnet10t").train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    convert(net, "dyconv", last_stages=2, kinds="spatial", position=slice(-1, None))
    assert all(module.training for module in net.modules())
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert not any(module._forward_hooks for module in net.modules())


def test_mistakes_are_refused() -> None:
    net = timm.create_model("resnet10t")
    for wrong in (0, 1.5, "last"):
        with refuses(ConversionError, "last_stages"):
            plan_conversion(net, last_stages=wrong)
    with refuses(ConversionError, "input_size"):
        plan_conversion(net, input_size=(3, 32, 32))
    text = nn.Sequential(nn.Embedding(9, 48), nn.Unflatten(1, (3, 4, 4)), nn.Conv2d(3, 4, 1))
    with refuses(ConversionError, "input_size"):
        plan_conversion(text, last_stages=1)
    with refuses(ConversionError, "last_stages"):
        plan_conversion(nn.Sequential(nn.Identity()), last_stages=1)
