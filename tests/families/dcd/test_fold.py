"""Layers that take in a fixed norm behind them and fold their own constants: function and contract stay."""

import copy

import pytest
import torch
from torch import Tensor, nn

from dynaconv.families import CondConv2d, DCDConv2d, DCDLinear, SEConv2d
from tests.families.cases import CASES, algorithms, enlarge, prepare
from tests.families.test_contract import assert_close_to_scale, convolve_each, images, ready
from tests.helpers import TOLERANCE

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def affine(channels: int) -> tuple[Tensor, Tensor]:
    """A scale a channel, of both signs and away from zero, and a shift."""
    generator = torch.Generator().manual_seed(2)
    scale = torch.rand(channels, generator=generator, dtype=torch.float64) + 0.3
    return scale * (-1.0) ** torch.arange(channels), torch.randn(channels, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("order", ["absorb first", "fold first", "absorb twice"])
@pytest.mark.parametrize("name", CASES)
def test_function_and_contract_stay(name: str, order: str) -> None:
    layer, x = ready(name).eval(), images()
    want = layer(x)
    scale, shift = affine(want.shape[1])
    if order == "absorb first":
        layer.absorb_affine(scale, shift)
    layer.fold_constants()
    if order != "absorb first":
        layer.absorb_affine(scale, shift)
    want = want * scale[:, None, None] + shift[:, None, None]
    if order == "absorb twice":
        layer.absorb_affine(scale, shift)
        want = want * scale[:, None, None] + shift[:, None, None]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in layer.modules())
    for algorithm in algorithms(name):
        layer.algorithm = algorithm
        torch.testing.assert_close(layer(x), want, **TOLERANCE["float64"])
    torch.testing.assert_close(convolve_each(layer, x), want, **TOLERANCE["float64"])


@pytest.mark.parametrize("name", CASES)
def test_trainability_dtype_layout_and_state_stay(name: str) -> None:
    layer = ready(name).eval().float().to(memory_format=torch.channels_last).requires_grad_(False)
    strides, x = layer.weight.stride(), images(dtype=torch.float32)
    layer.fold_constants()
    layer.absorb_affine(*affine(layer.out_channels))
    assert layer.weight.stride() == strides
    assert all(p.dtype == torch.float32 and not p.requires_grad and p.is_leaf for p in layer.parameters())
    again = ready(name).eval().float()
    again.fold_constants()
    again.absorb_affine(*affine(layer.out_channels))
    again.load_state_dict(layer.state_dict())
    torch.testing.assert_close(again(x), layer(x), **TOLERANCE["float32"])
    torch.testing.assert_close(copy.deepcopy(layer)(x), layer(x), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["dcd-norm", "dcd-joint", "dyconv-square", "odconv-square", "se-square"])
def test_half_precision_branch_becomes_float32(name: str, dtype: str) -> None:
    layer, x = ready(name).eval().to(getattr(torch, dtype)), images(dtype=getattr(torch, dtype))
    want = layer(x).double()
    scale, shift = affine(want.shape[1])
    layer.fold_constants()
    layer.absorb_affine(scale, shift)
    assert {p.dtype for p in layer.branch.parameters()} == {torch.float32}
    got = layer(x)
    assert got.dtype == x.dtype
    assert_close_to_scale(got.double(), want * scale[:, None, None] + shift[:, None, None], dtype)


def test_linear_layer_with_latent_norms() -> None:
    layer = DCDLinear(12, 5, norm="batch", latent_dim=3).double().eval()
    enlarge(layer)
    prepare(layer, torch.rand)  # type: ignore[arg-type]
    x = torch.randn(4, 12, dtype=torch.float64)
    scale, shift = affine(5)
    want = layer(x) * scale + shift
    layer.fold_constants()
    layer.absorb_affine(scale, shift)
    torch.testing.assert_close(layer(x), want, **TOLERANCE["float64"])
    rows = torch.einsum("boi,bi->bo", layer.kernel(x), x) + layer.sample_bias(x)
    torch.testing.assert_close(rows, want, **TOLERANCE["float64"])


def test_squeeze_excite_refuses_a_channel_that_vanishes() -> None:
    layer = SEConv2d(4, 6, 1)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match="a channel's scale is zero"):
        layer.absorb_affine(torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0, 1.0]), torch.zeros(6))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("layer", [CondConv2d(4, 6, 1), DCDConv2d(4, 6, 1, norm="batch"), SEConv2d(4, 6, 1)])
def test_a_layer_with_a_shift_of_its_own_is_no_static_convolution(layer: DCDConv2d) -> None:
    layer.branch.requires_grad_(False)
    layer._neutralise()
    assert layer.is_neutral
    layer.eval().fold_constants()
    layer.absorb_affine(torch.ones(6), torch.ones(6))
    assert not layer.is_neutral
