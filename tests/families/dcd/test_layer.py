"""DCD's sizes, parameter counts, choice of algorithm and error messages."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from dynaconv.families import DCDConfig, DCDConv2d, DCDLinear
from dynaconv.families.contract import convolution
from dynaconv.families.dcd import core, default_latent_dim
from tests.families.cases import enlarge
from tests.helpers import TOLERANCE, count


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
    enlarge(layer)
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


def test_costs_count_what_runs() -> None:
    costs = DCDConv2d(512, 512, 1, device="meta").algorithm_costs((1, 512, 28, 28))
    # Static part, and L (C_in + C_out) a pixel with L = 32; Phi goes into P once.
    pixels = 28 * 28
    assert costs["factored"].multiply_adds == pixels * (512 * 512 + 32 * 1024)
    assert costs["kernel"].multiply_adds == pixels * 512 * 512 + 512 * 32 * 32 + 512 * 32 * 512


def test_costs_see_the_padding_the_layer_does_itself() -> None:
    reflected, zeros = (DCDConv2d(8, 8, 3, padding=2, padding_mode=mode) for mode in ("reflect", "zeros"))
    shape = (2, 8, 9, 7)
    assert reflected.algorithm_costs(shape)["factored"].dense == zeros.algorithm_costs(shape)["factored"].dense
    with pytest.raises(ValueError, match="built for in_channels=8"):
        zeros.algorithm_costs((2, 5, 9, 7))


def test_auto_takes_the_cheaper_algorithm() -> None:
    layer = DCDConv2d(32, 192, 1, device="meta")
    # Large maps of few channels are cheaper with the kernel formed, small maps of many with the factors.
    assert layer._choose(torch.empty(1, 32, 112, 112, device="meta")) == "kernel"
    assert layer._choose(torch.empty(64, 32, 2, 2, device="meta")) == "factored"
    # While exporting, sizes say nothing, and factors serve every size.
    with patch("dynaconv.families.contract.convolution.is_exporting", return_value=True):
        assert layer._choose(torch.empty(1, 32, 112, 112, device="meta")) == "factored"


def test_auto_runs_what_it_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 8, 5, 5)
    calls: list[str] = []
    for choice, op in (("kernel", "kernel_dcd"), ("factored", "factored_dcd")):
        with monkeypatch.context() as patch:
            patch.setattr("dynaconv.families.contract.convolution.cheapest", lambda costs, choice=choice: choice)
            real = getattr(core, op)
            patch.setattr(core, op, lambda *args, op=op, real=real: (calls.append(op), real(*args))[1])
            layer = DCDConv2d(8, 12, 1)
            layer(x)
            layer(x)
    assert calls == ["kernel_dcd"] * 2 + ["factored_dcd"] * 2


def test_the_algorithm_is_chosen_once_a_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, asked = DCDConv2d(8, 12, 3), []
    monkeypatch.setattr(
        "dynaconv.families.contract.convolution.cheapest", lambda costs: (asked.append(costs), "kernel")[1]
    )
    for batch in (2, 3, 2, 3):
        layer(torch.randn(batch, 8, 5, 5))
    assert len(asked) == 2
    layer.padding = (1, 1)
    layer(torch.randn(2, 8, 5, 5))
    assert len(asked) == 3
    for width in range(5, 5 + 2 * convolution._REMEMBERED_SHAPES):
        layer(torch.randn(1, 8, 5, width))
    assert len(layer._chosen) <= convolution._REMEMBERED_SHAPES


def test_attributes_are_read_when_called() -> None:
    layer, conv = DCDConv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
    for module in (layer, conv):
        module.dilation, module.padding, module.stride = (2, 2), (2, 2), (1, 2)
    x = torch.randn(1, 4, 9, 7)
    assert layer(x).shape == conv(x).shape


def test_context_of_one_number_still_counts() -> None:
    layer = DCDConv2d(1, 8, 3)
    enlarge(layer)
    assert not torch.equal(layer.kernel(torch.ones(1, 1, 5, 5)), layer.kernel(-torch.ones(1, 1, 5, 5)))


def test_norms_put_in_place_by_other_tools() -> None:
    layer, x = DCDConv2d(4, 4, 1, norm="batch"), torch.randn(3, 4, 5, 5)
    want = layer.eval()(x)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(layer).eval()
    torch.testing.assert_close(synchronised(x), want, **TOLERANCE["float32"])


def test_branch_maps_are_modules_that_hooks_reach() -> None:
    layer = DCDConv2d(4, 4, 1)
    prune.l1_unstructured(layer.branch.squeeze, "weight", 0.3)
    for _ in range(2):
        layer(torch.randn(2, 4, 3, 3)).sum().backward()


def test_every_module_can_be_reset_after_meta_construction() -> None:
    layer = DCDConv2d(16, 16, 1, norm="batch", device="meta").to_empty(device="cpu")
    for module in layer.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert layer(torch.randn(2, 16, 3, 3)).isfinite().all()


def test_convolutions_that_compute_something_else_are_refused() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    with pytest.raises(TypeError, match="Doubled computes something else than"):
        DCDConv2d.from_conv(Doubled(3, 3, 1))


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
        ({"gain": True}, "gain must be a positive number; got True."),
        ({"context_size": 2.0}, "context_size must be one of 1, 2; got 2.0."),
        ({"variant": "scale", "fusion": "joint"}, "variant='scale' has no residual, so fusion has no meaning"),
        ({"variant": "residual", "scale_activation": "tanh"}, "has no Lambda, so scale_activation has no meaning"),
        ({"in_channels": 1, "context_norm": "layer"}, "context_norm='layer' makes a context of one number zero"),
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
