"""`convert` with kinds="linear": pointwise layers that networks write as `nn.Linear` on channels-last features."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynaconv import (
    DCDLinear,
    KernelWarehouseLinear,
    apply_conversion,
    conversion_of,
    convert,
    deploy,
    export_onnx,
    freeze,
    plan_conversion,
    profile,
    revert,
)
from dynaconv.errors import ConversionError
from dynaconv.families import DynamicLayer
from dynaconv.testing.cases import enlarge
from dynaconv.testing.tolerance import assert_close_to_scale
from tests.helpers import TOLERANCE, assert_file_computes, count
from tests.messages import refuses

KINDS = ("pointwise", "depthwise", "spatial", "linear")
LINEAR: dict[str, Any] = {"dcd": DCDLinear, "kernel_warehouse": KernelWarehouseLinear}
OPTIONS: dict[str, dict[str, Any]] = {"dcd": {}, "kernel_warehouse": {"branch_norm": "layer", "budget": 2}}


class Block(nn.Module):
    """A ConvNeXt block: a depthwise convolution, then two linear layers on channels-last features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.fc1, self.fc2 = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        out: Tensor = x + self.fc2(nn.functional.gelu(self.fc1(rows))).permute(0, 3, 1, 2)
        return out


class Net(nn.Module):
    """A stem, two stages and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.stages = nn.Sequential(Block(8), nn.Conv2d(8, 16, 2, stride=2), Block(16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.stages(self.stem(x)).mean((2, 3)))
        return out


def static() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def images(batch: int = 3) -> Tensor:
    return torch.randn(batch, 3, 40, 24, generator=torch.Generator().manual_seed(1))


def trained(family: str) -> Any:
    """A converted network whose kernels depend on the input."""
    net = convert(static(), family, kinds=KINDS, **OPTIONS[family])
    for module in net.modules():
        if isinstance(module, DynamicLayer):
            enlarge(module)
    return net


@pytest.mark.parametrize("family", LINEAR)
def test_the_function_stays_trains_and_comes_back(family: str) -> None:
    net, x = static(), images()
    plan = plan_conversion(net, family, kinds=KINDS, **OPTIONS[family])
    dynamic: Any = plan.apply(net)
    torch.testing.assert_close(dynamic(x), net(x), **TOLERANCE["float32 twin"])
    assert {type(dynamic.stages[i].fc1) for i in (0, 2)} == {LINEAR[family]} == {type(dynamic.head)}
    assert count(dynamic) == plan.converted_params == profile(dynamic, (3, 40, 24)).params
    back: Any = revert(dynamic)
    assert type(back.stages[0].fc2) is nn.Linear
    torch.testing.assert_close(back(x), net(x), **TOLERANCE["float32 twin"])
    optimizer = torch.optim.SGD(dynamic.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(dynamic.train()(x), torch.arange(3)).backward()
        optimizer.step()
    assert not dynamic.stages[0].fc1.is_neutral
    with refuses(ConversionError, "stages.0.fc1"):
        revert(dynamic)


def test_a_sample_has_one_matrix_by_the_mean_of_its_positions() -> None:
    net, x = trained("dcd"), torch.randn(2, 5, 3, 8)
    layer = net.stages[0].fc1
    shuffled = x.flatten(1, 2)[:, torch.randperm(15)].reshape(x.shape)
    torch.testing.assert_close(layer.kernel(x), layer.kernel(shuffled))
    assert layer.kernel(x).shape == (2, 16, 8)


def test_linear_layers_stay_static_unless_they_are_asked_for() -> None:
    plan = plan_conversion(static(), "dcd")
    assert not any(layer.kind == "linear" for layer in plan.layers)
    assert [layer.name for layer in plan.converted] == ["stages.1"]
    chosen = plan_conversion(static(), "dcd", kinds="linear", include="stages.*", position=slice(-1, None))
    assert [layer.name for layer in chosen.converted] == ["stages.2.fc2"]
    assert re.search(r"stages.2.fc2 +linear +32 -> 16 +DCDLinear", str(chosen))
    assert "1 of 9 layers become dynamic" in str(chosen)
    head = plan_conversion(static(), "dcd", kinds="linear", include="head")
    assert [layer.name for layer in head.converted] == ["head"]
    late = plan_conversion(static(), "dcd", kinds="linear", last_stages=1, input_size=(3, 40, 24))
    assert [layer.name for layer in late.converted] == ["stages.2.fc1", "stages.2.fc2", "head"]
    with refuses(ConversionError, "stages.*.fc1", "linear"):
        plan_conversion(static(), "dcd", include="stages.*.fc1")
    with refuses(ConversionError, "stages.0.fc3", "stages.0.fc2"):
        plan_conversion(static(), "dcd", kinds="linear", include="stages.0.fc3")


@pytest.mark.parametrize("family", LINEAR)
def test_a_record_rebuilds_the_network(family: str) -> None:
    dynamic, x = trained(family), images()
    again = apply_conversion(Net(), conversion_of(dynamic)).eval()
    again.load_state_dict(dynamic.state_dict())
    torch.testing.assert_close(again(x), dynamic(x))


def test_linear_layers_of_a_stage_share_cells() -> None:
    dynamic: Any = trained("kernel_warehouse")
    block = dynamic.stages[2]
    assert block.fc1.warehouse is block.fc2.warehouse is not block.depthwise.warehouse
    plan = plan_conversion(static(), "kernel_warehouse", kinds="linear", budget=0.5, start="least_squares")
    errors = [layer.relative_error for layer in plan.converted]
    assert all(error is not None and 0 < error < 1 for error in errors)


def test_frozen_linear_layers_are_static_again() -> None:
    dynamic: Any = trained("dcd")
    frozen: Any = freeze(dynamic, "*.fc1", images())
    assert type(frozen.stages[0].fc1) is nn.Linear
    rows = dynamic.stages[0].norm(dynamic.stages[0].depthwise(dynamic.stem(images())).permute(0, 2, 3, 1))
    torch.testing.assert_close(frozen.stages[0].fc1.weight, dynamic.stages[0].fc1.kernel(rows).mean(0))


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("family", LINEAR)
def test_it_is_deployed(family: str, backend: str) -> None:
    dynamic, x = trained(family), images()
    assert_close_to_scale(deploy(dynamic, example=x, backend=backend)(x), dynamic(x), "float32")


@pytest.mark.export
@pytest.mark.parametrize("family", LINEAR)
def test_it_is_exported_with_a_free_batch(family: str, tmp_path: Path) -> None:
    dynamic = trained(family)
    block = nn.Sequential(dynamic.stem, dynamic.stages[0]).eval()
    report = export_onnx(block, tmp_path / "net.onnx", images(1))
    assert report.difference < 1e-4
    assert_file_computes(tmp_path / "net.onnx", block, (3, 40, 24))


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_convnext_has_the_published_number_of_parameters(package: str) -> None:
    pytest.importorskip(package)
    with torch.device("meta"):
        if package == "timm":
            import timm

            net, include = timm.create_model("convnext_tiny"), ["stem.0", "stages.*"]
        else:
            from torchvision.models import convnext_tiny

            net, include = convnext_tiny(), ["features.0.0", "features.*"]
    plan = plan_conversion(net, "kernel_warehouse", warehouse="kind", branch_norm="layer", include=include, kinds=KINDS)
    assert plan.converted_params == 39_370_674
    assert len(plan.converted) == 58


class Attention(nn.Module):
    """Layers whose weights torch's modules read without calling them, and one that is called."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.out = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.encoder(self.attention(x, x, x)[0]))
        return out


def test_layers_that_are_not_called_stay_static() -> None:
    plan = plan_conversion(Attention(), "dcd", kinds="linear")
    reasons = {layer.name: layer.reason or "" for layer in plan.layers}
    assert reasons.pop("out") == ""
    assert reasons.keys() == {"attention.out_proj", "encoder.self_attn.out_proj", "encoder.linear1", "encoder.linear2"}
    assert all("without calling it" in reason for reason in reasons.values())
    with refuses(ConversionError, "encoder.linear1", "TransformerEncoderLayer"):
        convert(Attention(), "dcd", kinds="linear", include="encoder.linear1")


@pytest.mark.parametrize(
    ("family", "options", "words"),
    [
        ("condconv", {}, ["condconv", "Linear"]),
        ("dcd", {"fusion": "joint"}, ["fusion", "DCDLinear"]),
        ("kernel_warehouse", {"whole_taps": True}, ["whole_taps", "KernelWarehouseLinear"]),
        ("dcd", {"average_rows": False}, ["average_rows"]),
        ("dcd", {"context": "block", "include": "head"}, ["context", "block"]),
    ],
)
def test_what_has_no_effect_is_refused(family: str, options: dict[str, Any], words: list[str]) -> None:
    net = static()
    before = dict(net.named_modules())
    with refuses(ConversionError, *words):
        convert(net, family, kinds="linear", inplace=True, **options)
    assert dict(net.named_modules()) == before


def test_options_of_convolutions_act_on_the_convolutions() -> None:
    dynamic: Any = convert(static(), "dcd", kinds=KINDS, include="stages.*", fusion="joint")
    assert dynamic.stages[1].config.fusion == "joint"
    assert dynamic.stages[0].fc1.config.average_rows
    again = convert(dynamic, "dcd", kinds="linear", again=True)
    assert isinstance(again.head, DCDLinear)
    assert not any(isinstance(part, DynamicLayer) for part in again.stages[0].fc1.branch.modules())
