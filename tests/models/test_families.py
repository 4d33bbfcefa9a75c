"""The table of families and the checks that the networks share."""

import pytest
from torch import nn

from dynaconv.families import DCDConv2d, get_family
from dynaconv.models import _families
from tests.messages import refuses


@pytest.mark.parametrize(("family", "option"), [("static", "latent_dim"), ("dcd", "stride")])
def test_what_is_no_hyperparameter_of_the_family_is_refused(family: str, option: str) -> None:
    with refuses(ValueError, family if family == "static" else option):
        _families.check_family_options(family, {option: 2})


def test_options_that_are_no_mapping_are_refused() -> None:
    with refuses(TypeError):
        _families.check_family_options("dcd", 4)  # type: ignore[arg-type]


def test_options_are_copied() -> None:
    options = {"latent_dim": 4}
    assert _families.check_family_options("dcd", options) == options
    assert _families.check_family_options("dcd", options) is not options


@pytest.mark.parametrize(
    ("output_stride", "stem_stride", "inner"),
    [(32, 4, 32), (16, 4, 16), (8, 4, 8), (32, 1, 32), (8, 1, 32), (4, 1, 16), (2, 1, 8), (16, 2, 32), (4, 2, 8)],
)
def test_output_stride_counts_the_true_stem(output_stride: int, stem_stride: int, inner: int) -> None:
    assert _families.inner_output_stride(output_stride, stem_stride) == inner


@pytest.mark.parametrize(("output_stride", "stem_stride"), [(4, 4), (2, 2), (1, 1), (64, 4), (12, 4)])
def test_an_output_stride_that_cannot_be_had_is_refused(output_stride: int, stem_stride: int) -> None:
    with refuses(ValueError, "output_stride"):
        _families.inner_output_stride(output_stride, stem_stride)


def test_a_replaced_convolution_keeps_geometry_and_static_weights() -> None:
    conv = nn.Conv2d(6, 8, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2), bias=True, padding_mode="reflect")
    model = nn.Sequential(conv, nn.Conv2d(8, 4, 1))
    _families.replace_convolutions(model, get_family("dcd"), {"0": {"latent_dim": 2}})
    layer = model[0]
    assert isinstance(layer, DCDConv2d)
    assert type(model[1]) is nn.Conv2d
    for attribute in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"):
        assert getattr(layer, attribute) == getattr(conv, attribute)
    assert layer.padding_mode == "reflect"
    assert layer.weight.equal(conv.weight)
    assert layer.bias is not None
    assert conv.bias is not None
    assert layer.bias.equal(conv.bias)


def test_a_layer_that_does_not_fit_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(6, 8, 1))
    with refuses(ValueError):
        _families.replace_convolutions(model, get_family("dcd"), {"0": {"latent_dim": -1}})
