"""Native programs with kernels in bfloat16: what is rounded, how it is stored; values are compared by `check`."""

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from dynaconv import DCDConv2d, deploy
from dynaconv.native import NativeProgram
from dynaconv.native.steps import FIELDS, PRECISIONS
from dynaconv.ops.packing import bf16_words, panels
from tests.native.programs import check_threads, run_steps, with_fields
from tests.native.test_layers import check, random_geometry, rounded
from tests.native.test_mixtures import trained
from tests.native.test_program import network, network_of_cells_and_groups, network_of_mixtures


def deployed(model: nn.Module) -> NativeProgram:
    native = deploy(model, backend="native", precision="bf16")
    assert isinstance(native, NativeProgram)
    return native


def precisions(native: NativeProgram) -> list[int]:
    assert native.steps is not None
    return native.steps.view(-1, len(FIELDS))[:, FIELDS.index("precision")].tolist()


@torch.no_grad()
def test_weights_are_rounded_to_the_nearest_and_ties_to_even() -> None:
    """bfloat16 has steps of 2^-7 from 1 to 2 and of 2^-6 from 2 to 4."""
    conv = nn.Conv2d(5, 1, 1, bias=False).eval()
    conv.weight.copy_(torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -(2 + 2**-8), 0.0]).view(1, 5, 1, 1))
    want = torch.tensor([1, 1 + 2**-6, 1 + 2**-7, -2, 0])
    native = deployed(nn.Sequential(nn.Identity(), conv))
    found = [native(torch.eye(5)[i].view(1, 5, 1, 1)).item() for i in range(5)]
    assert found == want.tolist()


def test_words_hold_pairs_of_rows() -> None:
    packed = panels(torch.tensor([[1.0, 2.0, -0.0]]))
    words = bf16_words(packed, 8).view(2, 8)
    assert words[:, 1:].count_nonzero() == 0
    assert [f"{word & 0xFFFFFFFF:08x}" for word in words[:, 0].tolist()] == ["40003f80", "00008000"]


@torch.no_grad()
def test_all_kernels_and_nothing_else_are_rounded() -> None:
    for model in (network(), network_of_mixtures(), network_of_cells_and_groups()):
        state, native = deploy(model).state_dict(), deployed(model)
        want = rounded(model).state_dict()
        changed = {name for name in state if not torch.equal(state[name], want[name])}
        assert changed
        for name, value in native.original.state_dict().items():
            torch.testing.assert_close(value, want[name], rtol=0, atol=0)


@torch.no_grad()
def test_torch_computes_the_same_function() -> None:
    """Where a program falls back to torch, as for float64, nothing changes but the arithmetic."""
    model = network()
    native, x = deployed(model), torch.randn(2, 3, 9, 11)
    fast = native(x)
    torch.testing.assert_close(fast.double(), native.double()(x.double()), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_loaded_state_is_rounded() -> None:
    native, other = deployed(network()), network()
    state = {f"original.{name}": value for name, value in deploy(other).state_dict().items()}
    native.load_state_dict(state)
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(native(x), rounded(other)(x), rtol=1e-5, atol=1e-5, check_stride=False)


def test_the_given_network_stays_as_it_is() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    deployed(model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("family", "share"), [("static", 0.55), ("dyconv", 0.6), ("condconv", 0.55), ("kernel_warehouse", 0.7)]
)
def test_programs_are_about_half_as_large(family: str, share: float) -> None:
    """Branches stay in float32, a third of a KernelWarehouse network."""
    model = timm.create_model(f"{family}_mobilenetv2_050", num_classes=1000).eval()
    whole = deploy(model, backend="native").constants
    half = deploy(model, backend="native", precision="bf16").constants
    assert half.numel() < share * whole.numel()


def test_kernels_that_gain_nothing_stay_in_float32() -> None:
    depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
    dcd = DCDConv2d(24, 24, 3, padding=1, groups=24)
    native = deployed(nn.Sequential(nn.Conv2d(3, 24, 1), depthwise, dcd, nn.Conv2d(24, 8, 1)).eval())
    assert precisions(native) == [PRECISIONS["bf16"], 0, 0, PRECISIONS["bf16"]]


def test_a_factor_of_channels_keeps_its_kernel_in_float32() -> None:
    """The rounded kernel times the factor has more bits."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gamma = nn.Conv2d(24, 40, 1), nn.Parameter(torch.randn(40, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.conv(x)
            return y * self.gamma

    model = nn.Sequential(nn.Conv2d(3, 24, 1), Scaled()).eval()
    assert precisions(deployed(model)) == [PRECISIONS["bf16"], PRECISIONS["float32"]]
    check(model, torch.randn(2, 3, 9, 7))


@pytest.mark.parametrize("seed", range(12))
def test_large_static_layers(seed: int) -> None:
    """Kernels of more than 256 KiB, which are widened one panel at a time, with one thread and two."""
    draw = random.Random(seed)
    geometry, (batch, height, width) = random_geometry(draw)
    geometry |= {"kernel_size": draw.choice([1, 3]), "padding": 1, "dilation": 1}
    inputs, outputs = draw.choice([(200, 400), (333, 217), (512, 1000), (96, 900)])
    layers = [nn.Conv2d(3, inputs, 1), nn.ReLU(), nn.Conv2d(inputs, outputs, **geometry), nn.ReLU6()]
    if seed % 3 == 0:
        layers += [nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs)]
    if seed % 3 == 1:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(outputs, 1000)]
    check(nn.Sequential(*layers), torch.randn(batch, 3, height, width), rtol=2e-5)


@pytest.mark.parametrize("algorithm", ["kernel", "factored"])
def test_dcd_with_a_large_kernel(algorithm: str) -> None:
    layers = nn.Conv2d(3, 300, 1), DCDConv2d(300, 500, 1, algorithm=algorithm), nn.ReLU()
    check(nn.Sequential(*layers), torch.randn(3, 3, 7, 9))


@pytest.mark.parametrize(
    "name", ["static_mobilenetv2_050", "odconv_mobilenetv2_035", "dcd_resnet10", "kernel_warehouse_mobilenetv2_035"]
)
def test_threads_and_groups_change_nothing(name: str) -> None:
    check_threads(deployed(trained(timm.create_model(name, num_classes=10), 0.3)), torch.randn(5, 3, 64, 64))


@pytest.mark.parametrize(
    ("model", "step", "fields"),
    [
        (network, 0, {"precision": -1}),
        (network, 0, {"precision": 3}),
        (network, 2, {"precision": PRECISIONS["bf16"]}),
        (network_of_mixtures, 4, {"precision": PRECISIONS["bf16"]}),
        (network_of_mixtures, 5, {"precision": PRECISIONS["float32"]}),
        (network_of_cells_and_groups, 1, {"num_cells": 10**4}),
    ],
)
def test_a_damaged_step_is_refused(model: Callable[[], nn.Module], step: int, fields: dict[str, Any]) -> None:
    native = deployed(model())
    with pytest.raises(RuntimeError, match="damaged"):
        run_steps(native, torch.randn(1, 3, 6, 6), with_fields(native, step, fields))
