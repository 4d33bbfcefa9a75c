"""The temperature of a whole network, set by one call."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from dynaconv import DCDConv2d, DYConv2d, set_temperature
from dynaconv.layers.temperature import has_temperature


def network() -> nn.Sequential:
    """Two layers with a temperature, one of them nested, and two without."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), DYConv2d(8, 8, 3), nn.Sequential(nn.ReLU(), DYConv2d(8, 8, 1)), DCDConv2d(8, 8, 1)
    )


def temperatures(model: nn.Module) -> list[float]:
    return [float(buffer) for name, buffer in model.named_buffers() if name.endswith("temperature")]


def test_every_layer_that_has_one_is_set() -> None:
    model = network()
    assert temperatures(model) == [1, 1]
    assert set_temperature(model, 30) == 2
    assert temperatures(model) == [30, 30]
    layer = model[1]
    assert set_temperature(layer, 0.5) == 1
    assert temperatures(model) == [0.5, 30]


def test_the_buffer_stays_the_same_tensor() -> None:
    # Whatever holds the buffer (an exponential average, a compiled graph) sees the new value.
    model = network()
    before = [buffer for name, buffer in model.named_buffers() if name.endswith("temperature")]
    set_temperature(model, 7)
    assert [float(buffer) for buffer in before] == [7, 7]


def test_copies_keep_it_and_are_independent() -> None:
    model = network()
    set_temperature(model, 12)
    twin = copy.deepcopy(model)
    assert temperatures(twin) == [12, 12]
    set_temperature(twin, 3)
    assert temperatures(model) == [12, 12]
    fresh = network()
    fresh.load_state_dict(twin.state_dict())
    assert temperatures(fresh) == [3, 3]


def test_no_gradient_and_no_graph_reaches_it() -> None:
    model = network()
    with torch.enable_grad():
        set_temperature(model, 2.5)
    assert not any(buffer.requires_grad for buffer in model.buffers())


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan, True, "30", None])
def test_a_wrong_value_is_explained_and_changes_nothing(value: Any) -> None:
    model = network()
    with pytest.raises(ValueError, match="temperature must be a positive number; got"):
        set_temperature(model, value)
    assert temperatures(model) == [1, 1]
    with pytest.raises(ValueError, match="temperature must be a positive number; got"):
        DYConv2d(3, 8, 1, temperature=value)


def test_a_model_without_temperature_is_explained() -> None:
    with pytest.raises(ValueError, match="Sequential has no layer with a temperature"):
        set_temperature(nn.Sequential(nn.Conv2d(3, 8, 1), DCDConv2d(8, 8, 1)), 30)


def test_only_a_buffer_counts() -> None:
    other = nn.ReLU()
    other.temperature = 5.0  # type: ignore[assignment]
    assert not has_temperature(other)
    assert has_temperature(DYConv2d(3, 8, 1))
    # A module holds its own buffers only; its children answer for theirs.
    assert not has_temperature(network())
