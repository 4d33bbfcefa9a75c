"""Multiply-adds by the papers' convention, and the algorithm that ran."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynaconv import DCDConv2d, DCDLinear
from dynaconv.measure.profile import profile


class TwoKernels(nn.Module):
    """A mixture of two kernels, run by convolving with both: small enough to be counted by hand."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.shape = (out_channels, in_channels, kernel_size, kernel_size)
        self.kernels = nn.Parameter(torch.randn(2, *self.shape))
        self.branch = nn.Linear(in_channels, 2)

    def coefficients(self, x: Tensor) -> Tensor:
        return self.branch(x.mean(dim=(2, 3)))

    def kernel(self, x: Tensor) -> Tensor:
        return (self.coefficients(x) @ self.kernels.flatten(1)).reshape(-1, *self.shape)

    def forward(self, x: Tensor) -> Tensor:
        outputs = torch.stack([nn.functional.conv2d(x, kernel) for kernel in self.kernels], dim=1)
        return (outputs * self.coefficients(x)[:, :, None, None, None]).sum(1)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_mixture_counts_as_executed_and_as_published(batch: int) -> None:
    found = profile(TwoKernels(3, 5, 3), (batch, 3, 6, 8))
    (layer,) = found.layers
    static = 5 * 3 * 9 * (4 * 6)
    branch = 3 * 2
    assembly = 2 * 5 * 3 * 9
    assert layer.macs == batch * (2 * static + branch)
    assert layer.published_macs == batch * (static + branch + assembly)
    assert (found.macs, found.published_macs) == (layer.macs, layer.published_macs)


def test_static_layers_and_work_outside_layers_count_alike() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dynamic = TwoKernels(3, 5, 1)
            self.static = nn.Conv2d(5, 7, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.static(self.dynamic(x))
            return y.flatten(2) @ y.flatten(2).mT

    found = profile(Scaled(), (3, 6, 6))
    dynamic, static = found.layers
    assert static.macs == static.published_macs == 7 * 5 * 9 * 16
    assert found.macs - dynamic.macs == found.published_macs - dynamic.published_macs == 7 * 45 * 16 + 7 * 7 * 16
    assert static.algorithm is None


def test_a_layer_may_answer_itself() -> None:
    class Own(TwoKernels):
        def published_macs(self, input_shape: tuple[int, ...]) -> int:
            return 1000 * input_shape[0] + input_shape[3]

    layer = Own(3, 3, 1)
    (found,) = profile(nn.Sequential(layer, layer), (2, 3, 4, 5)).layers
    assert found.published_macs == 2 * 2005


def test_a_dynamic_layer_without_a_kernel_counts_as_executed(toy: nn.Sequential) -> None:
    found = profile(toy, (4, 6, 6))
    assert found.published_macs == found.macs


@pytest.mark.parametrize("size", [(8, 9, 9), (8, 40, 40)])
def test_dcd_by_hand(size: tuple[int, int, int]) -> None:
    layer = DCDConv2d(8, 12, 1, bias=False, latent_dim=2, hidden_channels=4)
    pixels = size[1] * size[2]
    branch = 8 * 4 + 4 * (12 + 2 * 2)
    assembly = 2 * 2 * 8 + 12 * 2 * 8  # Phi Q^T, then P times that
    layer.algorithm = "kernel"
    kernel = profile(layer, size)
    assert kernel.published_macs == kernel.macs == pixels * 8 * 12 + branch + assembly
    layer.algorithm = "factored"
    factored = profile(layer, size)
    assert factored.published_macs == kernel.published_macs
    # P Phi is formed once, or Phi and P are applied to every pixel.
    assert factored.macs > pixels * (8 * 12 + 8 * 2)


def test_the_algorithm_that_ran_is_named() -> None:
    layer = DCDConv2d(16, 16, 1)
    costs: dict[tuple[int, ...], str] = {}
    for size in ((1, 16, 2, 2), (8, 16, 64, 64)):
        (found,) = profile(layer, size).layers
        costs[size] = str(found.algorithm)
        layer.algorithm = found.algorithm  # type: ignore[assignment]
        assert profile(layer, size).macs == found.macs
        layer.algorithm = "auto"
    assert set(costs.values()) <= set(layer.algorithms)
    layer.algorithm = "factored"
    assert profile(layer, (16, 2, 2)).layers[0].algorithm == "factored"


def test_calls_that_were_run_differently_name_each_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = DCDConv2d(8, 8, 1)

    def costs(shape: tuple[int, ...]) -> dict[str, Any]:
        from dynaconv.ops import Cost

        return {"kernel": Cost(dense=shape[3] ** 2), "factored": Cost(dense=16)}

    monkeypatch.setattr(layer, "algorithm_costs", costs)
    (found, _) = profile(nn.Sequential(layer, nn.AvgPool2d(4), layer), (8, 8, 8)).layers
    assert found.algorithm == "factored, kernel"


def test_a_dynamic_classifier_has_both_counts() -> None:
    (found,) = profile(nn.Sequential(nn.Flatten(), DCDLinear(12, 6, latent_dim=2)), (2, 3, 2, 2)).layers[1:]
    layer = DCDLinear(12, 6, latent_dim=2)
    branch = sum(p.numel() for p in layer.branch.parameters() if p.dim() == 2)
    assert found.published_macs == 2 * (12 * 6 + branch + 2 * 2 * 12 + 6 * 2 * 12)


@pytest.mark.parametrize("norm", [None, "batch"])
def test_the_model_is_left_as_it_was(norm: Any) -> None:
    model = nn.Sequential(DCDConv2d(4, 8, 1, norm=norm), nn.BatchNorm2d(8), nn.Dropout(), DCDConv2d(8, 4, 3, norm=norm))
    model.train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    buffers = [id(buffer) for buffer in model.buffers()]
    random_state = torch.get_rng_state()
    found = profile(model, (2, 4, 8, 8), latency=True, rounds=1)
    assert found.saved_bytes
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [id(buffer) for buffer in model.buffers()] == buffers
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
