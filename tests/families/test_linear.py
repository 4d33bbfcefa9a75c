"""Linear layers on channels-last features: the 1x1 convolution of their family, written another way."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynaconv.families import DCDLinear, families
from dynaconv.testing.cases import enlarge
from dynaconv.testing.tolerance import assert_close
from tests.messages import refuses

FAMILIES = {family.name: family for family in families() if family.linear is not None}
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "dcd": [{}, {"norm": "batch"}, {"blocks": 2, "context_norm": "running"}],
    "kernel_warehouse": [{}, {"budget": 2, "branch_norm": "layer", "temperature": 0.25}],
}
PAIRS = [(name, options) for name, several in OPTIONS.items() for options in several]


def pair(family: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """A linear layer as `convert` makes it, and a 1x1 convolution with the same parameters, in float64."""
    linear_class: Any = FAMILIES[family].linear
    linear = linear_class(8, 12, dtype=torch.float64, **linear_class.network_options, **options)
    conv = FAMILIES[family].layer(8, 12, 1, dtype=torch.float64, **options)
    enlarge(linear)
    shapes = {name: value.shape for name, value in conv.state_dict().items()}
    conv.load_state_dict({name: value.reshape(shapes[name]) for name, value in linear.state_dict().items()})
    return linear, conv


def test_every_family_with_a_linear_layer_is_compared() -> None:
    assert OPTIONS.keys() == FAMILIES.keys()


@pytest.mark.parametrize("sizes", [(), (5,), (3, 5)], ids=str)
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("family", "options"), PAIRS, ids=str)
def test_it_is_the_pointwise_convolution_of_the_mean_context(
    family: str, options: dict[str, Any], train: bool, sizes: tuple[int, ...]
) -> None:
    linear, conv = pair(family, options)
    for layer in (linear, conv):
        layer.train(train)
    rows = torch.randn(3, *sizes, 8, dtype=torch.float64, requires_grad=True)
    images = rows.reshape(3, 1, -1, 8).permute(0, 3, 1, 2)
    upstream = torch.randn(3, *sizes, 12, dtype=torch.float64)
    out, twin = linear(rows), conv(images).permute(0, 2, 3, 1).reshape(3, *sizes, 12)
    assert_close(out, twin)
    parameters = dict(conv.named_parameters())
    got = torch.autograd.grad(out, [rows, *linear.parameters()], upstream)
    want = torch.autograd.grad(twin, [rows, *(parameters[name] for name, _ in linear.named_parameters())], upstream)
    assert_close(got, tuple(theirs.reshape(ours.shape) for ours, theirs in zip(got, want, strict=True)))
    if not train:
        assert_close(linear.kernel(rows), conv.kernel(images).reshape(3, 12, 8))
        assert_close(linear.deployed()(rows), twin)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mask_leaves_padding_out_of_the_mean(family: str) -> None:
    linear, _ = pair(family, {})
    linear.eval()
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor([[6], [4]])
    assert_close(linear(x, mask=mask)[1, :4], linear(x[1:, :4])[0])
    with refuses(ValueError, "mask"):
        linear(x, mask=mask[:, :3])


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("family", "options"), PAIRS, ids=str)
def test_an_empty_batch_gives_an_empty_output(family: str, options: dict[str, Any], train: bool) -> None:
    linear = pair(family, options)[0].train(train)
    # Without the counters, which count forward passes.
    state = {name: value.clone() for name, value in linear.state_dict().items() if value.is_floating_point()}
    for sizes in ((), (5,), (3, 5)):
        empty = torch.zeros(0, *sizes, 8, dtype=torch.float64)
        assert linear(empty).shape == (0, *sizes, 12)
        assert linear.deployed()(empty).shape == (0, *sizes, 12)
    assert_close({name: linear.state_dict()[name] for name in state}, state)
    assert linear.eval().kernel(torch.zeros(0, 5, 8, dtype=torch.float64)).shape == (0, 12, 8)


def test_rows_have_matrices_of_their_own_unless_they_are_averaged() -> None:
    x = torch.randn(2, 5, 8)
    for average_rows, count in ((False, 10), (True, 2)):
        layer = DCDLinear(8, 12, average_rows=average_rows).eval()
        assert layer.kernel(x).shape == (count, 12, 8)
        assert layer.algorithm_costs(x.shape).keys() == {"kernel", "factored"}
    with refuses(ValueError, "average_rows"):
        DCDLinear(8, 12, average_rows=True)(x[0, 0])
    with refuses(ValueError, "average_rows", "context_features"):
        DCDLinear(8, 12, average_rows=True, context_features=4)


@pytest.mark.parametrize(("family", "options"), PAIRS, ids=str)
def test_it_starts_as_the_static_layer_and_comes_back(family: str, options: dict[str, Any]) -> None:
    static = nn.Linear(8, 12, dtype=torch.float64).eval()
    x: Tensor = torch.randn(2, 5, 8, dtype=torch.float64)
    linear_class: Any = FAMILIES[family].linear
    layer = linear_class.from_linear(static, **linear_class.network_options, **options)
    assert_close(layer(x), static(x))
    assert_close(layer.static_layer()(x), static(x))
    enlarge(layer)
    with refuses(RuntimeError, linear_class.__name__):
        layer.static_layer()
