from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.messages import refuses
from torch import nn

from dynaconv.measure.profile import profile


def _network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )


def test_counts_equal_the_hand_counts() -> None:
    found = profile(_network(), (3, 11, 7))
    height, width = 6, 4
    by_name = {layer.name: layer for layer in found.layers}
    assert by_name["0"].macs == 8 * 3 * 9 * height * width
    assert by_name["0"].params == 8 * 3 * 9
    assert by_name["0"].output_shape == (1, 8, height, width)
    assert by_name["1"].params == 16
    assert by_name["3"].macs == 8 * 1 * 9 * height * width
    assert by_name["6"].macs == 8 * 10
    assert found.macs == sum(layer.macs for layer in found.layers)
    assert found.params == 8 * 27 + 16 + 8 * 9 + 8 + 8 * 10 + 10


def test_batch_multiplies_the_count_and_a_size_of_three_is_a_batch_of_one() -> None:
    assert profile(_network(), (4, 3, 8, 8)).macs == 4 * profile(_network(), (3, 8, 8)).macs
    assert profile(_network(), (3, 8, 8)).input_size == (1, 3, 8, 8)


def test_a_layer_used_twice_counts_its_work_twice_and_its_parameters_once() -> None:
    conv = nn.Conv2d(4, 4, 1, bias=False)
    found = profile(nn.Sequential(conv, conv), (4, 5, 5))
    assert found.params == 16
    assert found.macs == 2 * 16 * 25
    (layer,) = found.layers
    assert (layer.params, layer.macs, layer.calls) == (16, 2 * 16 * 25, 2)


def test_a_shared_parameter_counts_once() -> None:
    first, second = nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False)
    second.weight = first.weight
    found = profile(nn.Sequential(first, second), (4, 5, 5))
    assert [layer.params for layer in found.layers] == [16, 0]
    assert found.params == 16


def test_a_dynamic_layer_is_one_row_with_its_branch(toy: nn.Sequential) -> None:
    found = profile(toy, (4, 6, 6))
    assert [layer.kind for layer in found.layers] == ["ToyDynamic", "ReLU", "ToyDynamic"]
    assert found.layers[0].macs == 4 * (4 + 9)


def test_work_outside_layers_is_in_the_total_and_the_table_says_so() -> None:
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv2d(4, 4, 1, bias=False)
            self.weight = nn.Parameter(torch.rand(4, 4, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.conv2d(self.inner(x), self.weight)

    found = profile(Raw(), (4, 3, 3))
    assert (found.macs, found.params) == (2 * 16 * 9, 32)
    assert (found.layers[0].macs, found.layers[0].params) == (16 * 9, 16)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(found.table())
    assert "outside any layer" in console.export_text()


def test_hooks_and_mode_are_restored_when_the_model_fails() -> None:
    model = _network().train()
    with refuses(ValueError, "Sequential"):
        profile(model, (5, 8, 8))
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    "size", [(8, 8), (1, 2, 3, 4, 5), (3, 0, 8), (3, -1, 8), (3, 8.0, 8), (True, 8, 8), 3], ids=str
)
def test_a_bad_size_is_refused_in_one_sentence(size: Any) -> None:
    with refuses(ValueError, "input_size"):
        profile(_network(), size)


def test_a_model_on_the_meta_device_and_in_float64_can_be_profiled() -> None:
    with torch.device("meta"):
        on_meta = _network()
    assert profile(on_meta, (3, 8, 8)).macs == profile(_network().double(), (3, 8, 8)).macs
