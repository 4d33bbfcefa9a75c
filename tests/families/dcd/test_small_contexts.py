"""Layers that read one to four channels: their kernels say what the averages of these channels say."""

import pytest
import torch

from dynaconv import DCDConv2d, DCDLinear, deploy
from dynaconv.families.contract.branch import inverse_length
from dynaconv.families.dcd.config import SMALL_CONTEXT
from tests.families.cases import enlarge
from tests.helpers import LAYERS, TOLERANCE
from tests.messages import refuses


def images_of_averages(averages: torch.Tensor) -> torch.Tensor:
    """Images whose channels have these averages, ``(N, C)``, and noise around them."""
    noise = torch.randn(*averages.shape, 4, 4)
    return averages[:, :, None, None] + noise - noise.mean((2, 3), keepdim=True)


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("channels", range(1, 7))
@pytest.mark.parametrize("family", LAYERS)
def test_kernels_differ_as_the_contexts_do(family: str, channels: int, kernel_size: int) -> None:
    layer = LAYERS[family](channels, 8, kernel_size).eval()
    enlarge(layer)
    with torch.no_grad():
        kernels = layer.kernel(images_of_averages(torch.randn(500, channels))).flatten(1)
    moved = kernels - kernels.mean(0)
    distances = torch.pdist(moved) / moved.norm(dim=1).mean()
    # Of few images, some have all hidden units off; a sign or an order alone would leave a handful of kernels.
    assert (distances < 1e-5).float().mean() < 0.05


@pytest.mark.parametrize("channels", range(1, SMALL_CONTEXT + 1))
def test_fresh_dcd_determines_every_direction_and_the_length(channels: int) -> None:
    layer = DCDConv2d(channels, 8, 1)
    averages = torch.randn(64, channels).requires_grad_()
    hidden = layer.branch.activated(layer.branch.squeeze(averages))
    hidden = hidden * inverse_length(hidden)
    assert hidden.norm(dim=1).max() <= 1
    for row in range(64):
        rows = [torch.autograd.grad(unit, averages, retain_graph=True)[0][row] for unit in hidden[row]]
        assert torch.linalg.svdvals(torch.stack(rows))[-1] > 1e-3, averages[row]


def test_linear_layers_too() -> None:
    layer = DCDLinear(2, 8)
    enlarge(layer)
    kernels = layer.kernel(torch.randn(100, 2)).flatten(1)
    assert torch.pdist(kernels).min() > 0


def test_options_that_are_given_stay() -> None:
    assert DCDConv2d(2, 8, 1, context_norm="layer").context_norm
    assert DCDConv2d(2, 8, 1, hidden_channels=1).branch.squeeze.out_features == 1
    assert DCDConv2d(2, 8, 1, hidden_norm=None).branch.squeeze.bias is None
    assert DCDConv2d(SMALL_CONTEXT + 1, 8, 1).branch.squeeze.bias is None
    published = DCDConv2d(2, 8, 1, norm="batch")
    assert (published.branch.squeeze.out_features, published.branch.squeeze.bias) == (16, None)
    with refuses(ValueError):
        DCDConv2d(1, 8, 1, context_norm="layer")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_type(dtype: torch.dtype) -> None:
    assert DCDConv2d(1, 8, 3, dtype=dtype)(torch.randn(2, 1, 5, 5, dtype=dtype)).isfinite().all()


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("channels", range(1, SMALL_CONTEXT + 1))
def test_deployed(channels: int, backend: str) -> None:
    layer = DCDConv2d(channels, 8, 3, padding=1).eval()
    enlarge(layer)
    x = torch.randn(5, channels, 6, 7)
    with torch.no_grad():
        got = deploy(layer, backend=backend)(x)  # type: ignore[arg-type]
        torch.testing.assert_close(got, layer(x), **TOLERANCE["float32"], check_stride=False)
