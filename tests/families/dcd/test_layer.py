"""DCD's sizes, parameter counts, choice of algorithm and error messages."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from dynaconv.families import DCDConv2d, DCDLinear
from dynaconv.families.contract import convolution
from dynaconv.families.dcd import core, default_latent_dim
from tests.families.cases import enlarge
from tests.helpers import TOLERANCE, count
from tests.messages import refuses, spelled


@pytest.mark.parametrize("channels", [64, 96, 160, 320, 1280])
def test_square_pointwise_count_is_the_papers(channels: int) -> None:
    latent, hidden = default_latent_dim(channels), channels // 16
    layer = DCDConv2d(channels, channels, 1, bias=False, device="meta", min_hidden_channels=4)
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
    width = {} if "hidden_channels" in options else {"min_hidden_channels": 4}
    layer = DCDConv2d(64, 96, 3, device="meta", **{"bias": False, **width, **options})
    assert count(layer) == want


def test_depthwise_count() -> None:
    layer = DCDConv2d(64, 64, 3, groups=64, bias=False, device="meta")
    # W, P, R with L_k = 4, the branch.
    assert count(layer) == 64 * 9 + 64 * 4 + 9 * 4 + 16 * (64 + 64 + 4**2)


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
def test_linear_trains_on_one_row(norm: Any) -> None:
    layer = DCDLinear(9, 7, norm=norm).train()
    layer(torch.randn(1, 9)).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


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
    with refuses(ValueError, "in_channels"):
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
    for width in range(5, 5 + 2 * convolution._MAX_CACHED_SHAPES):
        layer(torch.randn(1, 8, 5, width))
    assert len(layer._algorithm_by_shape) <= convolution._MAX_CACHED_SHAPES


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

    with refuses(TypeError, "Doubled"):
        DCDConv2d.from_conv(Doubled(3, 3, 1))


def test_no_kernel_while_batch_statistics_are_in_use() -> None:
    layer, x = DCDConv2d(4, 4, 1, norm="batch"), torch.randn(2, 4, 3, 3)
    for call in (layer.kernel, layer.sample_bias):
        with refuses(RuntimeError, "eval()"):
            call(x)
    layer.algorithm = "kernel"
    with refuses(RuntimeError, "algorithm"):
        layer(x)
    layer.eval()
    assert layer(x).shape == x.shape


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 3},
        {"kernel_size": 0},
        {"padding": "sane"},
        {"padding": "same", "stride": 2},
        {"padding_mode": "zero"},
        {"variant": "ful"},
        {"latent_dim": 0},
        {"latent_dim": 13},
        {"latent_taps": 2},
        {"fusion": "joint", "latent_taps": 10},
        {"blocks": 3},
        {"blocks": 1, "groups": 2},
        {"reduction": 0.0625},
        {"gain": True},
        {"context_size": 2.0},
        {"variant": "scale", "fusion": "joint"},
        {"variant": "residual", "scale_activation": "tanh"},
        {"in_channels": 1, "context_norm": "layer"},
        {"gain": 0},
        {"hidden_norm": "layer"},
        {"context_size": 3},
        {"fusion": "depthwise"},
        {"norm": "layer"},
        {"norm": "batch", "fusion": "joint"},
        {"variant": "scale", "latent_dim": 4},
        {"groups": 8, "out_channels": 8, "latent_dim": 2},
        {"activation": "rleu"},
    ],
    ids=spelled,
)
def test_bad_arguments_get_one_clear_sentence(options: dict[str, Any]) -> None:
    with refuses(ValueError):
        DCDConv2d(**{"in_channels": 8, "out_channels": 12, "kernel_size": 3, **options})


@pytest.mark.parametrize("shape", [(2, 7, 5, 5), (8, 5, 5), (1, 8, 5, 5, 5)], ids=str)
def test_bad_input_gets_one_clear_sentence(shape: tuple[int, ...]) -> None:
    layer = DCDConv2d(8, 12, 1)
    for call in (layer, layer.kernel, layer.coefficients, layer.sample_bias):
        with refuses(ValueError):
            call(torch.randn(shape))


def test_bad_conversion_source() -> None:
    with refuses(TypeError, "DCDConv2d.from_conv"):
        DCDConv2d.from_conv(nn.Linear(3, 3))  # type: ignore[arg-type]
    with refuses(TypeError, "DCDLinear.from_linear"):
        DCDLinear.from_linear(nn.Conv2d(3, 3, 1))  # type: ignore[arg-type]
    with refuses(ValueError, "in_features"):
        DCDLinear(9, 7)(torch.randn(2, 8))


def test_repr_shows_the_sizes() -> None:
    text = repr(DCDConv2d(64, 96, 3, padding=1))
    assert "64, 96, kernel_size=(3, 3)" in text
    assert "latent_dim=8" in text


@pytest.mark.parametrize(
    "options", [{}, {"blocks": 2}, {"kernel_size": 3, "fusion": "joint"}, {"kernel_size": 3, "groups": 8}]
)
def test_weight_norm_bounds_the_kernel_however_large_the_weights(options: dict[str, Any]) -> None:
    layer = DCDConv2d(8, 8, **{"kernel_size": 1, "gain": 0.5, **options}, dtype=torch.float64).eval()
    x = torch.randn(6, 8, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        for head in layer.branch.heads.values():
            head.weight.normal_(std=1e3)
        large = layer.kernel(x)
        found = layer.coefficients(x)
        # A row of at most unit length times a hidden vector of at most unit length.
        assert (found.scale / 2).logit().abs().max() <= 0.5
        for name in ("p", "q", "r"):
            if getattr(layer, name) is not None:
                getattr(layer, name).mul_(100)
        torch.testing.assert_close(layer.kernel(x), large, **TOLERANCE["float64"])


def test_weight_norm_and_latent_norms_exclude_each_other() -> None:
    assert not DCDConv2d(8, 8, 1, norm="batch").resolved.weight_norm
    with refuses(ValueError, "weight_norm"):
        DCDConv2d(8, 8, 1, norm="batch", weight_norm=True)
