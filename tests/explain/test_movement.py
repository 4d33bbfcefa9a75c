"""Movement of kernels, against all kernels held in memory at once."""

import pytest
import torch
from tests.helpers import LAYERS
from tests.messages import refuses
from torch import nn

from dynaconv.explain.movement import kernel_movement


@pytest.mark.parametrize("family", LAYERS)
def test_it_is_the_spread_of_the_kernels_about_their_mean(family: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[family](6, 8, 3, padding=1).double()
    for parameter in layer.get_submodule("branch").parameters():
        nn.init.normal_(parameter)
    net = nn.Sequential(nn.ReLU(), layer).train()
    x = torch.randn(11, 6, 5, 5, dtype=torch.float64) * torch.rand(11, 6, 1, 1, dtype=torch.float64)
    found = kernel_movement(net, [(x[:4], None), (x[4:5], None), (x[5:], None)])
    kernels = layer.eval().kernel(x.relu())
    mean = kernels.mean(0)
    expected = (kernels - mean).square().sum((1, 2, 3, 4)).mean().sqrt() / mean.norm()
    assert found == {"1": pytest.approx(expected.item(), rel=1e-9)}
    assert net[0].training
    assert not net[1]._forward_pre_hooks
    assert kernel_movement(net, x.split(4), max_batches=1) == kernel_movement(net, [x[:4]])


def test_a_static_network_and_no_images_are_refused() -> None:
    with refuses(ValueError):
        kernel_movement(nn.Sequential(nn.Conv2d(3, 3, 1)), [])
    with refuses(ValueError):
        kernel_movement(LAYERS["dcd"](3, 3, 1), [])
