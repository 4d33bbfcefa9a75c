"""DCD's sizes, parameter counts, choice of algorithm and error messages."""

from typing import Any

import pytest
import torch
from torch import nn

from dynaconv.layers import DCDConfig, DCDConv2d, DCDLinear
from dynaconv.ops.dcd import default_latent_dim
from tests.helpers import TOLERANCE


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("channels", [64, 96, 160, 320, 1280])
def test_square_pointwise_count_is_the_papers(channels: int) -> None:
    latent, hidden = default_latent_dim(channels), channels // 16
    layer = DCDConv2d(channels, channels, 1, bias=False, device="meta")
    assert count(layer) == channels**2 + 2 * channels * latent + (2 * channels + latent**2) * hidden


@pytest.mark.parametrize(
    ("options", "want"),
    [
        # (C_in, C_out) = (64, 96), k = 3, L = 8, hidden = 4: W0, P and Q, the branch.
        ({}, 64 * 96 * 9 + 8 * (64 + 96) + 4 * (64 + 96 + 8**2)),
        ({"variant": "residual"}, 64 * 96 * 9 + 8 * (64 + 96) + 4 * (64 + 8**2)),
        ({"variant": "scale"}, 64 * 96 * 9 + 4 * (64 + 96)),
        ({"context_size": 2}, 64 * 96 * 9 + 8 * (64 + 96) + 4 * (4 * 64 + 96 + 8**2)),
        # Blocks of (16, 24) channels have L = 4.
        ({"blocks": 4}, 64 * 96 * 9 + 4 * (64 + 96) + 4 * (64 + 96 + 4 * 4**2)),
        # Joint: L_k = 4, L from C / L_k = 16 is 4; R and Phi have L_k more.
        ({"fusion": "joint"}, 64 * 96 * 9 + 4 * (64 + 96) + 9 * 4 + 4 * (64 + 96 + 4**2 * 4)),
        ({"latent_dim": 5, "hidden_channels": 7}, 64 * 96 * 9 + 5 * (64 + 96) + 7 * (64 + 96 + 5**2)),
        ({"activation": "gate"}, 64 * 96 * 9 + 8 * (64 + 96) + 4 * (64 + 96 + 8**2) + 4 * 4),
        ({"norm": "batch"}, 64 * 96 * 9 + 8 * (64 + 96) + 4 * (64 + 96 + 8**2) + 4 * 4 + 4 * 8),
        ({"bias": True}, 64 * 96 * 9 + 8 * (64 + 96) + 4 * (64 + 96 + 8**2) + 96),
    ],
)
def test_spatial_count(options: dict[str, Any], want: int) -> None:
    assert count(DCDConv2d(64, 96, 3, device="meta", **{"bias": False, **options})) == want


def test_depthwise_count() -> None:
    layer = DCDConv2d(64, 64, 3, groups=64, bias=False, device="meta")
    # W, P, R with L_k = 4, the branch.
    assert count(layer) == 64 * 9 + 64 * 4 + 9 * 4 + 4 * (64 + 64 + 4**2)


def test_linear_count() -> None:
    layer = DCDLinear(1280, 1000, device="meta", latent_dim=32, hidden_channels=32)
    assert count(layer) == 1280 * 1000 + 1000 + 32 * (1280 + 1000) + 32 * (1280 + 1000 + 32**2)


@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize("algorithm", ["kernel", "factored"])
def test_linear_multiplies_each_row_by_its_own_matrix(algorithm: Any, norm: Any) -> None:
    layer = DCDLinear(9, 7, dtype=torch.float64, blocks=1, algorithm=algorithm, norm=norm, latent_dim=4).eval()
    layer.branch.reset_parameters(0.5 / layer.branch.gain)
    x = torch.randn(2, 3, 9, dtype=torch.float64)
    rows = x.flatten(0, 1)
    bias = layer.sample_bias(rows)
    assert bias is not None
    want = torch.einsum("noi,ni->no", layer.kernel(rows), rows) + bias
    torch.testing.assert_close(layer(x), want.reshape(2, 3, 7), **TOLERANCE["float64"])
    assert layer(x[0, 0]).shape == (7,)


@pytest.mark.parametrize("norm", [None, "batch"])
def test_linear_starts_as_the_static_layer(norm: Any) -> None:
    linear = nn.Linear(9, 7, dtype=torch.float64)
    x = torch.randn(5, 9, dtype=torch.float64)
    torch.testing.assert_close(DCDLinear.from_linear(linear, norm=norm)(x), linear(x), **TOLERANCE["float64"])


@pytest.mark.parametrize("norm", [None, "batch"])
def test_linear_trains_on_one_row(norm: Any) -> None:
    layer = DCDLinear(9, 7, norm=norm).train()
    layer(torch.randn(1, 9)).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_static_state_dict_has_its_place() -> None:
    conv = nn.Conv2d(8, 12, 3)
    layer = DCDConv2d(8, 12, 3)
    missing, unexpected = layer.load_state_dict(conv.state_dict(), strict=False)
    assert not unexpected
    assert not {"weight", "bias"} & set(missing)
    assert torch.equal(layer.weight, conv.weight)


def test_coefficients_have_the_documented_shapes() -> None:
    x = torch.randn(3, 8, 6, 6)
    shapes = {
        "plain": (DCDConv2d(8, 12, 1), (3, 12), (3, 4, 4)),
        "blocks": (DCDConv2d(8, 12, 1, blocks=2), (3, 12), (3, 2, 2, 2)),
        "joint": (DCDConv2d(8, 12, 3, fusion="joint", latent_dim=5), (3, 12), (3, 5, 5, 4)),
        "depthwise": (DCDConv2d(8, 8, 3, groups=8), (3, 8), (3, 4, 4)),
    }
    for name, (layer, scale, fusion) in shapes.items():
        got = layer.coefficients(x)
        assert (got.scale.shape, got.fusion.shape) == (scale, fusion), name
    assert DCDConv2d(8, 12, 1, variant="scale").coefficients(x).fusion is None
    assert DCDConv2d(8, 12, 1, variant="residual").coefficients(x).scale is None


def test_auto_asks_the_cost_model() -> None:
    layer = DCDConv2d(512, 512, 1, device="meta")
    costs = layer.algorithm_costs((1, 512, 28, 28))
    assert costs["factored"].multiply_adds > costs["kernel"].multiply_adds
    # Static part, and L (C_in + C_out) a pixel with L = 32; Phi goes into P once.
    pixels = 28 * 28
    assert costs["factored"].multiply_adds == pixels * (512 * 512 + 32 * 1024)
    assert costs["kernel"].multiply_adds == pixels * 512 * 512 + 512 * 32 * 32 + 512 * 32 * 512
    big, small = torch.empty(1, 512, 56, 56, device="meta"), torch.empty(64, 512, 2, 2, device="meta")
    assert layer._choose(big, layer.geometry) == "kernel"
    assert layer._choose(small, layer.geometry) == "factored"


def test_algorithm_can_be_set_and_is_checked() -> None:
    layer = DCDConv2d(4, 4, 1)
    layer.algorithm = "kernel"
    assert layer.algorithm == "kernel"
    with pytest.raises(ValueError, match="algorithm must be one of 'auto', 'kernel', 'factored'; got 'kernle'"):
        layer.algorithm = "kernle"


def test_no_kernel_while_batch_statistics_are_in_use() -> None:
    layer, x = DCDConv2d(4, 4, 1, norm="batch"), torch.randn(2, 4, 3, 3)
    for call in (layer.kernel, layer.sample_bias):
        with pytest.raises(RuntimeError, match=r"call eval\(\) first"):
            call(x)
    layer.algorithm = "kernel"
    with pytest.raises(RuntimeError, match="algorithm='kernel' cannot run norm='batch' in train mode"):
        layer(x)
    layer.eval()
    assert layer(x).shape == x.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, "groups=3 does not divide in_channels=8; use one of 1, 2, 4, 8."),
        ({"kernel_size": 0}, "kernel_size must be a whole number of at least 1, or two of them; got 0."),
        ({"padding": "sane"}, "padding must be one of 'same', 'valid'; got 'sane'. Did you mean 'same'?"),
        ({"padding": "same", "stride": 2}, "padding='same' needs stride 1; got stride=(2, 2)"),
        ({"padding_mode": "zero"}, "padding_mode must be one of 'zeros', 'reflect'"),
        ({"variant": "ful"}, "variant must be one of 'full', 'scale', 'residual'; got 'ful'. Did you mean 'full'?"),
        ({"latent_dim": 0}, "latent_dim must be a whole number of at least 1; got 0."),
        ({"latent_dim": 13}, "latent_dim=13 is more than the 12 channels of a block"),
        ({"latent_taps": 2}, "channel fusion has latent_taps=1 (the centre tap); got 2. Use fusion='joint'."),
        ({"fusion": "joint", "latent_taps": 10}, "latent_taps=10 is more than the kernel's 9 taps; use 1 to 9."),
        ({"blocks": 3}, "blocks=3 does not divide in_channels=8; use one of 1, 2, 4, 8."),
        ({"blocks": 1, "groups": 2}, "blocks=1 must be a multiple of groups=2"),
        ({"reduction": 0.0625}, "reduction is a divisor, a whole number of at least 1; got 0.0625. For a ratio"),
        ({"gain": 0}, "gain must be a positive number; got 0."),
        ({"hidden_norm": "layer"}, "hidden_norm must be one of 'auto', 'unit', None; got 'layer'."),
        ({"context_size": 3}, "context_size must be one of 1, 2; got 3."),
        ({"fusion": "depthwise"}, "fusion='depthwise' needs a depthwise convolution (groups == in_channels)"),
        ({"norm": "layer"}, "norm must be one of None, 'batch'; got 'layer'."),
        ({"norm": "batch", "fusion": "joint"}, "norm='batch' is defined for channel fusion only; got fusion='joint'."),
        ({"variant": "scale", "latent_dim": 4}, "variant='scale' has no residual, so latent_dim has no meaning"),
        ({"groups": 8, "out_channels": 8, "latent_dim": 2}, "latent_dim has no meaning in the depthwise form"),
        ({"activation": "rleu"}, "Did you mean 'relu'?"),
    ],
)
def test_bad_arguments_get_one_clear_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is compared below
        DCDConv2d(**{"in_channels": 8, "out_channels": 12, "kernel_size": 3, **options})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 7, 5, 5), "built for in_channels=8; the input (2, 7, 5, 5) has 7 channels."),
        ((8, 5, 5), "takes a 4-D input (batch, channels, height, width); got 3-D (8, 5, 5). Add the batch axis"),
        ((1, 8, 5, 5, 5), "takes a 4-D input (batch, channels, height, width); got 5-D"),
    ],
)
def test_bad_input_gets_one_clear_sentence(shape: tuple[int, ...], message: str) -> None:
    layer = DCDConv2d(8, 12, 1)
    for call in (layer, layer.kernel, layer.coefficients, layer.sample_bias):
        with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is compared below
            call(torch.randn(shape))
        assert message in str(error.value)


def test_bad_conversion_source() -> None:
    with pytest.raises(TypeError, match=r"DCDConv2d.from_conv takes a torch.nn.Conv2d; got Linear."):
        DCDConv2d.from_conv(nn.Linear(3, 3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"DCDLinear.from_linear takes a torch.nn.Linear; got Conv2d."):
        DCDLinear.from_linear(nn.Conv2d(3, 3, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="in_features=9, the last axis; got an input"):
        DCDLinear(9, 7)(torch.randn(2, 8))


def test_config_round_trip() -> None:
    config = DCDConfig(variant="residual", latent_dim=7, norm=None)
    assert DCDConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="Did you mean 'latent_dim'"):
        DCDConfig.from_dict({"latent_dims": 7})


def test_repr_shows_the_sizes() -> None:
    text = repr(DCDConv2d(64, 96, 3, padding=1))
    assert "64, 96, kernel_size=(3, 3)" in text
    assert "latent_dim=8" in text
