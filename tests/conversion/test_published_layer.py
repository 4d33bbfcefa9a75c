"""`published_layer`: mistakes. The golden tests of the families show that the layers compute the published function."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dynaconv import published_layer
from dynaconv.errors import CheckpointError
from tests.conversion.published_layers import PublishedDCD, PublishedODConv
from tests.messages import refuses


@pytest.fixture
def dcd() -> PublishedDCD:
    return PublishedDCD(16, 24, style="mobilenet").double()


def state_of(layer: Any) -> dict[str, Tensor]:
    state: dict[str, Tensor] = layer.state_dict()
    return state


def test_the_layer_follows_from_its_weights(dcd: PublishedDCD) -> None:
    x = torch.randn(3, 16, 7, 5, dtype=torch.float64)
    layer = published_layer("dcd", state_of(dcd))
    assert layer.training
    torch.testing.assert_close(layer.eval()(x), dcd.eval()(x))
    odconv = PublishedODConv(8, 12, 3, 2, num_kernels=2).double()
    again = published_layer("odconv", state_of(odconv), stride=2, padding=1, temperature=1.0)
    torch.testing.assert_close(again.eval()(x[:, :8]), odconv.eval()(x[:, :8]))


def test_mistakes_are_refused(dcd: PublishedDCD) -> None:
    state = state_of(dcd)
    with refuses(ValueError, "dcx"):
        published_layer("dcx", state)
    with refuses(CheckpointError, "se"):
        published_layer("se", state)
    with refuses(CheckpointError, "in_channels"):
        published_layer("dcd", state, in_channels="32")
    with refuses(CheckpointError, "fc_squeeze"):
        published_layer("dcd", state, fc_squeeze=1)
    with refuses(CheckpointError, "strides"):
        published_layer("dcd", state, strides=2)
    with refuses(CheckpointError, "conv.weight"):
        published_layer("odconv", state)
    with refuses(CheckpointError, "branch.squeeze.weight"):
        published_layer("dcd", {key: value for key, value in state.items() if key != "fc.0.weight"})
    with refuses(CheckpointError, "norm2.running_var"):
        published_layer("dcd", {key: value for key, value in state.items() if key != "bn2.running_var"})
    with refuses(TypeError, "state"):
        published_layer("dcd", {"conv.weight": 3})
