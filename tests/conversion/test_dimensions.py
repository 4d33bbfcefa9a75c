"""Networks over signals and volumes, and decoders with transposed convolutions, are converted, trained and exported."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from dynaconv import (
    DCDConv2d,
    DCDConvTranspose2d,
    DynamicConv,
    apply_conversion,
    conversion_of,
    convert,
    deploy,
    export_onnx,
    plan_conversion,
    plan_deployment,
    revert,
)
from tests.helpers import TOLERANCE, assert_file_computes
from tests.messages import refuses
from tests.networks import UNet, Vocoder, Wav2Letter


class Problem(NamedTuple):
    """A network, the shape of its input without the batch, and the classes of its convolutions."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: set[str]


def r3d_18() -> nn.Module:
    models: Any = pytest.importorskip("torchvision").models.video
    network: nn.Module = models.r3d_18(weights=None, num_classes=5)
    return network


def speecht5_hifigan() -> nn.Module:
    """The vocoder of SpeechT5 in transformers, from a small config."""
    transformers: Any = pytest.importorskip("transformers")
    config = transformers.SpeechT5HifiGanConfig(
        model_in_dim=20, upsample_initial_channel=32, upsample_rates=[4, 2], upsample_kernel_sizes=[8, 4]
    )
    network: nn.Module = transformers.SpeechT5HifiGan(config)
    return network


def monai_unet() -> nn.Module:
    """MONAI's U-Net for volumes, with transposed convolutions."""
    networks: Any = pytest.importorskip("monai.networks.nets")
    network: nn.Module = networks.UNet(3, 1, 2, channels=(8, 16, 32), strides=(2, 2), norm="batch")
    return network


PROBLEMS = {
    "Wav2Letter": Problem(Wav2Letter, (1, 8000), {"Conv1d"}),
    "Vocoder": Problem(Vocoder, (20, 30), {"Conv1d", "ConvTranspose1d"}),
    "UNet": Problem(UNet, (3, 32, 24), {"Conv2d", "ConvTranspose2d"}),
    "UNet3d": Problem(lambda: UNet(3, 1, 2, (4, 8)), (1, 8, 8, 12), {"Conv3d", "ConvTranspose3d"}),
    "r3d_18": Problem(r3d_18, (3, 8, 32, 32), {"Conv3d"}),
    "SpeechT5HifiGan": Problem(speecht5_hifigan, (30, 20), {"Conv1d", "ConvTranspose1d"}),
    "MONAI": Problem(monai_unet, (1, 8, 16, 16), {"Conv3d", "ConvTranspose3d"}),
}
SMALL = [name for name in PROBLEMS if name != "r3d_18"]


def prepared(name: str, *, batch: int = 3) -> tuple[nn.Module, Tensor]:
    """Return the network with statistics of its norms that are not the initial ones, and inputs."""
    torch.manual_seed(0)
    network = PROBLEMS[name].build()
    x = torch.randn(batch, *PROBLEMS[name].shape) * torch.linspace(0.5, 2, batch).reshape(
        -1, *[1] * len(PROBLEMS[name].shape)
    )
    with torch.no_grad():
        network.train()(x)
    return network.eval(), x


def trained(network: nn.Module, x: Tensor, family: str = "dcd") -> nn.Module:
    """Return the converted network after a step in which every branch moved."""
    dynamic = convert(network, family).train()
    layers = [module for module in dynamic.modules() if isinstance(module, DynamicConv)]
    branches = [parameter for layer in layers for parameter in layer.branch.parameters()]
    dynamic(x).square().mean().backward()
    assert all(
        any(p.grad is not None and p.grad.abs().max() > 0 for p in layer.branch.parameters()) for layer in layers
    )
    torch.optim.Adam(branches, lr=2e-2).step()
    dynamic.zero_grad()
    return dynamic.eval()


@pytest.mark.parametrize("family", ["dcd", "condconv", "dyconv", "odconv", "se"])
@pytest.mark.parametrize("name", SMALL)
def test_converted_network_computes_the_same_and_reverts(name: str, family: str) -> None:
    network, x = prepared(name)
    network, x = network.double(), x.double()
    plan = plan_conversion(network, family)
    has_transposed = family in ("dcd", "condconv", "dyconv")
    expected = {kind for kind in PROBLEMS[name].classes if has_transposed or "Transpose" not in kind}
    dynamic = plan.apply(network)
    layers = [module for module in dynamic.modules() if isinstance(module, DynamicConv)]
    assert {layer.static_class().__name__ for layer in layers} == expected
    assert len(layers) == len(plan.converted)
    with torch.no_grad():
        want = network(x)
        torch.testing.assert_close(dynamic(x), want, **TOLERANCE["float64"])
        torch.testing.assert_close(revert(dynamic)(x), want, **TOLERANCE["float64"])
    again = apply_conversion(copy.deepcopy(network), conversion_of(dynamic))
    again.load_state_dict(dynamic.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again(x), want, **TOLERANCE["float64"])


@pytest.mark.parametrize("name", PROBLEMS)
def test_trained_network_is_deployed_with_its_norms_folded(name: str) -> None:
    network, x = prepared(name)
    dynamic = trained(network, x).double()
    x = x.double()
    deployed = deploy(dynamic, example=x)
    with torch.no_grad():
        want = dynamic(x)
        assert not torch.allclose(want, network.double()(x), rtol=1e-3)
        torch.testing.assert_close(deployed(x), want, rtol=1e-8, atol=1e-9)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in deployed.modules())


@pytest.mark.export
@pytest.mark.parametrize("name", [*SMALL, pytest.param("r3d_18", marks=pytest.mark.slow)])
def test_export_runs_at_every_batch_size(name: str, tmp_path: Path) -> None:
    network, x = prepared(name)
    dynamic = trained(network, x)
    export_onnx(dynamic, tmp_path / "network.onnx", x, free_size=False)
    assert_file_computes(tmp_path / "network.onnx", dynamic, PROBLEMS[name].shape)


def test_plan_says_which_family_lacks_a_dimension() -> None:
    plan = plan_conversion(UNet(), "odconv")
    reasons = {layer.name: layer.reason for layer in plan.layers}
    assert reasons["up.0"] == "odconv has no layer for a ConvTranspose2d; it has one for Conv1d, Conv2d, Conv3d"
    with refuses(ValueError, "has no layer for"):
        plan_conversion(UNet(), "se", include="up.0")


def test_transposed_convolutions_are_a_kind() -> None:
    dynamic = convert(UNet(), "dcd", kinds="transposed")
    kinds = [type(module) for module in dynamic.modules() if isinstance(module, DynamicConv)]
    assert kinds == [DCDConvTranspose2d] * 2
    without = convert(UNet(), "dcd", kinds=("spatial", "pointwise"))
    assert {type(module) for module in without.modules() if isinstance(module, DynamicConv)} == {DCDConv2d}


def test_weight_norm_stays_until_it_is_removed() -> None:
    network = Vocoder()
    for conv in network.up:
        nn.utils.parametrizations.weight_norm(conv)
    plan = plan_conversion(network)
    assert "computed from others" in str({layer.name: layer.reason for layer in plan.layers}["up.0"])
    for conv in network.up:
        nn.utils.parametrize.remove_parametrizations(conv, "weight")
    assert {layer.name: layer.reason for layer in plan_conversion(network).layers}["up.0"] is None


def test_deployment_needs_no_example_for_signals_and_volumes() -> None:
    for name in ("Vocoder", "UNet3d"):
        network, _ = prepared(name)
        assert plan_deployment(convert(network)).dynamic
    with refuses(ValueError, "input_size"):
        plan_deployment(convert(UNet(3, 1)), (1, 8, 8))
