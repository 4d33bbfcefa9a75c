"""Parameter groups: every trained parameter once, branches apart, and what decays."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from dynaconv import DCDConv2d, parameter_groups
from tests.helpers import LAYERS
from tests.messages import refuses, spelled


def network(family: str) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), LAYERS[family](8, 8, 3), nn.Flatten(), nn.Linear(8, 2))


def by_name(groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {group["name"]: group for group in groups}


@pytest.mark.parametrize("family", LAYERS)
def test_each_trained_parameter_is_in_one_group(family: str) -> None:
    net = network(family)
    frozen = net[0].weight.requires_grad_(False)
    groups = parameter_groups(net, 0.1, 0.01, branch_lr=0.02, branch_weight_decay=0.5)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in net.parameters()} - {id(frozen)}
    branch = {id(parameter) for parameter in net[2].branch.parameters()}
    for group in groups:
        of_branch = group["name"].startswith("branch")
        assert group["lr"] == (0.02 if of_branch else 0.1)
        assert group["weight_decay"] == (0 if "not" in group["name"] else 0.5 if of_branch else 0.01)
        for parameter in group["params"]:
            assert (id(parameter) in branch) == of_branch
            assert (parameter.dim() < 2) == ("not" in group["name"])


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_a_step_moves_each_group_by_its_own_rate(optimizer: type[torch.optim.Optimizer]) -> None:
    layer = DCDConv2d(8, 8, 1)
    before = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    optimiser = optimizer(parameter_groups(layer, 0.1, branch_lr=1e-3))
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    for name, parameter in layer.named_parameters():
        moved = (before[name] - parameter).abs().max().item()
        assert moved == pytest.approx(1e-3 if name.startswith("branch") else 0.1, rel=1e-4)


def test_norms_and_biases_do_not_decay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    groups = by_name(parameter_groups(model, 0.1, 0.1))
    assert [p.dim() for p in groups["decayed"]["params"]] == [4, 2]
    assert (groups["decayed"]["weight_decay"], groups["not_decayed"]["weight_decay"]) == (0.1, 0.0)
    assert len(groups["not_decayed"]["params"]) == 4
    (everything,) = parameter_groups(model, 0.1, 0.1, decay_norm_and_bias=True)
    assert len(everything["params"]) == 6


def test_a_model_may_exempt_parameters_by_name() -> None:
    class Exempting(nn.Linear):
        def no_weight_decay(self) -> set[str]:
            return {"weight"}

    (others,) = parameter_groups(Exempting(2, 2), 0.1, 0.1)
    assert others["weight_decay"] == 0.0


@pytest.mark.same_messages_for("name")
@pytest.mark.parametrize("name", ["lr", "weight_decay", "branch_lr", "branch_weight_decay"])
@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan, "0.1"])
def test_values_out_of_range_are_refused(name: str, value: Any) -> None:
    with refuses(ValueError, option=name):
        parameter_groups(DCDConv2d(8, 8, 1), **{"lr": 0.1, name: value})


@pytest.mark.parametrize("options", [{"branch_lr": 0.1}, {"branch_weight_decay": 0.1}], ids=spelled)
def test_values_for_branches_need_branches(options: dict[str, float]) -> None:
    with refuses(ValueError):
        parameter_groups(nn.Conv2d(3, 4, 1), 0.1, **options)
