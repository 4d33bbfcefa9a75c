"""Norms of the context: what they take away, on whom a kernel depends, and that they fold."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynaconv import DCDConv2d, DCDLinear, deploy
from dynaconv.families import DynamicConv2d
from dynaconv.families.contract.norms import RunningNorm2d
from tests.families.cases import enlarge
from tests.helpers import LAYERS, TOLERANCE
from tests.messages import refuses

NORM_IN_BRANCH = ("kernel_warehouse", "odconv")
"""Families whose branch has a batch norm of its own."""
every_family = pytest.mark.parametrize("family", LAYERS)
by_statistics = pytest.mark.parametrize("kind", ["batch", "running"])


def layer_of(family: str, kind: str | None, **options: Any) -> DynamicConv2d:
    layer = LAYERS[family](8, 12, 3, context_norm=kind, **{"dtype": torch.float64, **options})
    enlarge(layer)
    return layer


def images(batch: int = 6, dtype: torch.dtype = torch.float64) -> Tensor:
    # Averages that differ little, around one that all images share.
    return 3 + torch.randn(batch, 8, 7, 6, dtype=dtype)


def seen(layer: DynamicConv2d) -> DynamicConv2d:
    """In eval mode, after some batches."""
    with torch.no_grad():
        for _ in range(20):
            layer.train()(images(dtype=layer.weight.dtype))
    return layer.eval()


@every_family
@by_statistics
def test_it_folds(kind: str, family: str) -> None:
    layer = seen(layer_of(family, kind))
    network = nn.Sequential(layer, nn.BatchNorm2d(12, dtype=torch.float64)).eval()
    network[1].running_mean.normal_()
    network[1].running_var.uniform_(0.5, 2)
    deployed = deploy(network, example=images())
    x = images()
    torch.testing.assert_close(deployed(x), network(x), **TOLERANCE["float64"])
    assert not deployed[0].branch.normalise
    assert len([name for name in deployed.state_dict() if "running" in name]) == 0


@by_statistics
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_it_folds_into_native_kernels(kernel_size: int, kind: str) -> None:
    torch.manual_seed(0)
    layer = seen(DCDConv2d(8, 12, kernel_size, context_norm=kind))
    native = deploy(nn.Sequential(layer), backend="native", example=images(dtype=torch.float32))
    x = images(dtype=torch.float32)
    torch.testing.assert_close(native(x), layer(x), rtol=1e-4, atol=1e-5)


@every_family
def test_without_it_what_all_images_share_counts(family: str) -> None:
    x = images()
    shift = torch.rand(8, 1, 1, dtype=torch.float64)
    for kind in ("batch", None):
        layer = layer_of(family, kind, bias=False).train()
        same = torch.allclose(layer.kernel(x), layer.kernel(x + shift))
        # Squeeze-and-excitation reads what the convolution makes of the shift, its padding included.
        assert same == (kind == "batch" or family in NORM_IN_BRANCH)


@every_family
def test_a_kernel_by_running_statistics_is_of_its_sample_alone(family: str) -> None:
    layer, x = layer_of(family, "running"), images()
    seen(layer).train()
    if hasattr(layer.branch, "norm"):
        layer.branch.norm.eval()
    want = torch.cat([copy.deepcopy(layer)(x[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(layer(x), want, **TOLERANCE["float64"])


@every_family
@by_statistics
def test_a_single_sample_in_train_mode(kind: str, family: str) -> None:
    layer = seen(layer_of(family, kind))
    x = images(1)
    want = layer(x)
    torch.testing.assert_close(layer.train()(x), want, **TOLERANCE["float64"])
    assert layer_of(family, kind).train()(x).isfinite().all()
    assert layer(images(0)).shape[0] == 0


@every_family
@by_statistics
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_only_forward_passes_in_train_mode_move_the_statistics(dtype: torch.dtype, kind: str, family: str) -> None:
    layer = layer_of(family, kind, dtype=dtype)

    def changes(what: Any) -> bool:
        before = copy.deepcopy(layer.state_dict())
        what(images(dtype=dtype))
        assert before.keys() == layer.state_dict().keys()
        return any(not torch.equal(before[name], value) for name, value in layer.state_dict().items())

    assert changes(layer.train())
    assert not changes(layer.kernel)
    assert not changes(layer.coefficients)
    assert not changes(layer.sample_bias)
    assert not changes(layer.eval())


@every_family
@by_statistics
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_conversion_starts_neutral(mode: bool, kind: str, family: str) -> None:
    conv = nn.Conv2d(8, 12, 3, dtype=torch.float64).train(mode)
    layer, x = LAYERS[family].from_conv(conv, context_norm=kind), images()
    torch.testing.assert_close(layer(x), conv(x), **TOLERANCE["float64"])
    assert layer.is_neutral


@every_family
def test_synchronised_norms_of_torch(family: str) -> None:
    layer = seen(layer_of(family, "batch"))
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(layer)).eval()
    assert isinstance(synchronised.context_norm, nn.SyncBatchNorm)
    x = images()
    torch.testing.assert_close(synchronised(x), layer(x), **TOLERANCE["float64"])
    torch.testing.assert_close(deploy(nn.Sequential(synchronised), example=x)(x), layer(x), **TOLERANCE["float64"])


def test_reset_forgets_what_was_seen() -> None:
    for kind in ("batch", "running"):
        layer = seen(layer_of("dcd", kind))
        fresh = DCDConv2d(8, 12, 3, context_norm=kind, dtype=torch.float64)
        layer.reset_parameters()
        for name, buffer in fresh.named_buffers():
            assert torch.equal(layer.get_buffer(name), buffer)


def test_running_statistics_are_those_of_all_samples_at_first_and_then_moving_averages() -> None:
    norm, batches = RunningNorm2d(3, momentum=0.25, dtype=torch.float64).train(), []
    mean, second = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for number in range(6):
        batches.append(torch.randn(5, 3, 1, 1, dtype=torch.float64) * 2 + 1)
        scale = (norm.running_var + norm.eps).rsqrt()[:, None, None]
        want = (batches[-1] - norm.running_mean[:, None, None]) * scale
        torch.testing.assert_close(norm(batches[-1]), want)
        share = max(0.25, 1 / (number + 2))
        mean = (1 - share) * mean + share * batches[-1].mean((0, 2, 3))
        second = (1 - share) * second + share * batches[-1].square().mean((0, 2, 3))
        torch.testing.assert_close(norm.running_mean, mean)
        torch.testing.assert_close(norm.running_var, second - mean.square())


def test_linear_layers_too() -> None:
    layer = DCDLinear(8, 5, context_norm="batch", dtype=torch.float64)
    enlarge(layer)
    for _ in range(5):
        layer.train()(3 + torch.randn(4, 8, dtype=torch.float64))
    network, x = nn.Sequential(layer.eval()), 3 + torch.randn(4, 8, dtype=torch.float64)
    torch.testing.assert_close(layer.deployed()(x), network(x), **TOLERANCE["float64"])


@every_family
def test_bad_norms_are_named(family: str) -> None:
    with refuses(ValueError, "context_norm"):
        LAYERS[family](8, 8, 1, context_norm="group")
    with refuses(ValueError):
        LAYERS[family](1, 1, 1, context_norm="layer")
