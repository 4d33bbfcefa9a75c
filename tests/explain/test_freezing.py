"""The ranking of layers by what freezing costs, against networks that are frozen one layer at a time."""

import copy

import pytest
import torch
from tests.families.cases import enlarge
from tests.messages import refuses
from torch import Tensor, nn

import dynaconv
from dynaconv.explain.coefficients import collect_coefficients
from dynaconv.explain.freezing import rank_layers
from dynaconv.explain.movement import kernel_movement
from dynaconv.explain.suppression import measure_suppression
from dynaconv.families import CondConv2d, DCDConv2d, ODConv2d


@pytest.fixture
def network() -> nn.Sequential:
    layers = [CondConv2d(3, 6, 3), nn.ReLU(), DCDConv2d(6, 8, 1), nn.ReLU(), ODConv2d(8, 5, 1)]
    for layer in layers:
        if isinstance(layer, dynaconv.DynamicLayer):
            enlarge(layer)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    images = 3 * torch.randn(41, 3, 6, 6, dtype=torch.float64) * torch.rand(41, 3, 1, 1, dtype=torch.float64)
    return list(zip(images.split(16), torch.randint(0, 5, (41,)).split(16), strict=True))


def test_each_row_is_the_effect_of_freezing_that_layer(
    network: nn.Sequential, batches: list[tuple[Tensor, Tensor]]
) -> None:
    images, classes = torch.cat([batch[0] for batch in batches]), torch.cat([batch[1] for batch in batches])
    before = copy.deepcopy(network.state_dict())
    ranking = rank_layers(network.train(), batches)
    assert network.training
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    network.eval()
    with torch.no_grad():
        dynamic = network(images).argmax(1)
    movement = kernel_movement(network, batches)
    assert {effect.name for effect in ranking.layers} == {"0", "2", "4"}
    for effect in (*ranking.layers, ranking.all_frozen):
        frozen = dynaconv.freeze(network, "*" if effect.name == "all" else effect.name, batches)
        with torch.no_grad():
            predicted = frozen(images).argmax(1)
        assert effect.changed == int((predicted != dynamic).sum())
        hits = int((dynamic == classes).sum()) - int((predicted == classes).sum())
        assert effect.lost - effect.gained == hits
        assert effect.cost == hits / 41
        assert effect.movement == (None if effect.name == "all" else movement[effect.name])
    assert any(effect.changed > 0 for effect in ranking.layers)
    assert ranking.all_frozen.changed > 0
    costs = [(effect.cost, effect.changed) for effect in ranking.layers]
    assert costs == sorted(costs, reverse=True)


def test_a_layer_whose_kernel_does_not_move_costs_nothing(
    network: nn.Sequential, batches: list[tuple[Tensor, Tensor]]
) -> None:
    still = network[2]
    assert isinstance(still, DCDConv2d)
    still._neutralise()
    effect = next(effect for effect in rank_layers(network, batches).layers if effect.name == "2")
    assert (effect.lost, effect.gained, effect.changed) == (0, 0, 0)
    assert effect.movement == pytest.approx(0, abs=1e-12)


def test_a_static_network_and_no_images_are_refused(network: nn.Sequential, toy: nn.Sequential) -> None:
    with refuses(ValueError):
        rank_layers(nn.Sequential(nn.Conv2d(3, 3, 1)), [])
    with refuses(ValueError, "DynamicLayer"):
        rank_layers(toy, [])
    with refuses(ValueError):
        rank_layers(network, [])


def test_images_without_classes_are_refused(network: nn.Sequential) -> None:
    images = [torch.randn(2, 3, 8, 8).double()]
    with refuses(TypeError, "classes"):
        rank_layers(network, images)  # type: ignore[arg-type]
    with refuses(TypeError, "classes"):
        measure_suppression(network, images)  # type: ignore[arg-type]
    with refuses(TypeError, "classes"):
        collect_coefficients(network, images, num_classes=2)  # type: ignore[arg-type]
