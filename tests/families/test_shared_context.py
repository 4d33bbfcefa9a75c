"""`SharedContext`: one context for several layers."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynaconv import DCDConv2d, ODConv2d, SharedContext, parameter_groups
from dynaconv.testing.cases import enlarge
from dynaconv.testing.tolerance import assert_close
from tests.messages import refuses


class Block(nn.Module):
    """Two layers of different families with one context."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.shared = SharedContext(4, 3, **options)
        self.first, self.second = DCDConv2d(4, 6, 1, context_features=3), ODConv2d(6, 4, 3, context_features=3)
        enlarge(self.first)
        enlarge(self.second)

    def forward(self, x: Tensor) -> Tensor:
        context = self.shared(x)
        return self.second(self.first(x, context).relu(), context)


@pytest.mark.parametrize("context_norm", [None, "layer", "batch", "running"])
def test_it_maps_the_average_and_every_parameter_learns(context_norm: str | None) -> None:
    block, x = Block(context_norm=context_norm).double(), torch.randn(5, 4, 6, 5, dtype=torch.float64) + 1
    block(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in block.shared.parameters())
    block.eval()
    mean = x.mean((2, 3))
    normed = (
        mean
        if block.shared.context_norm is None
        else block.shared.context_norm(mean if context_norm == "layer" else mean[:, :, None, None]).flatten(1)
    )
    assert_close(block.shared(x), block.shared.linear(normed).relu())
    linear = SharedContext(4, 3, activation=None).double()
    assert_close(linear(x), linear.linear(mean))
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block)), torch.fx.symbolic_trace(block)):
        assert_close(other(x), block(x))
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(block, (x,), dynamic_shapes=({0: batch},)).module()
    for size in (1, 2, 5):
        assert_close(program(x[:size]), block(x[:size]))


def test_its_parameters_are_those_of_branches() -> None:
    block = Block()
    branches = [group["params"] for group in parameter_groups(block, 0.1) if group["name"].startswith("branch")]
    found = {id(parameter) for group in branches for parameter in group}
    assert {id(parameter) for parameter in block.shared.parameters()} <= found


def test_mistakes_are_refused() -> None:
    block, x = Block(), torch.randn(3, 4, 6, 5)
    with refuses(ValueError, "(batch, 4, *sizes)"):
        block.shared(torch.randn(3, 5, 6, 5))
    with refuses(ValueError, "(batch, 4, *sizes)"):
        block.shared(torch.randn(3, 4))
    with refuses(ValueError, "SharedContext"):
        block.shared(x, mask=torch.ones(3, 5, 6))
    with refuses(ValueError, "activation"):
        SharedContext(4, 3, activation="swish")
    with refuses(ValueError, "features"):
        SharedContext(4, 0)
    with refuses(ValueError, "B=2"):
        block.first(x[:2], block.shared(x))
