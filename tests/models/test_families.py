"""The table of families and the checks that the networks share."""

import pytest
from torch import nn

from dynaconv.families import DCDConv2d, get_family
from dynaconv.models import _families
from tests.messages import refuses


def test_an_unknown_family_is_named_with_the_known_and_the_nearest() -> None:
    with refuses(ValueError, "dcdd"):
        _families.get_family("dcdd")


def test_a_family_without_published_structure_says_which_have_one() -> None:
    with refuses(ValueError, "static"):
        _families.get_published("static")


def test_an_unknown_hyperparameter_is_named_with_the_known_and_the_nearest() -> None:
    with refuses(ValueError, "latent"):
        _families.check_family_options("dcd", {"latent": 4})


def test_the_static_family_takes_no_hyperparameter() -> None:
    with refuses(ValueError, "static"):
        _families.check_family_options("static", {"latent_dim": 4})


def test_arguments_of_the_convolution_are_no_hyperparameters() -> None:
    with refuses(ValueError, "stride"):
        _families.check_family_options("dcd", {"stride": 2})


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
