"""A family that the library does not know, in this file alone: it keeps the contract and is used like the others."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from dynaconv import convert, deploy, export_onnx, plan_deployment, profile
from dynaconv.conversion import apply_conversion, conversion_of
from dynaconv.explain.statistics import collect_statistics
from dynaconv.families import DynamicConv2d, Family, register_family
from dynaconv.families import family as registry
from dynaconv.families.contract.affine import add_bias
from dynaconv.families.contract.branch import BranchLinear, context_dtype
from dynaconv.families.contract.config import LayerConfig
from dynaconv.families.contract.convolution import DynamicConvolution
from dynaconv.families.contract.deployed import AffineMap, DeployedBranch, DeployedConv, fold_context_norm
from dynaconv.families.contract.norms import make_context_norm, normalise
from dynaconv.families.contract.options import option
from dynaconv.families.family import Coefficient
from dynaconv.ops import Cost, full_precision, pool_context, shared_conv
from dynaconv.testing import CHECKS, TOLERANCE, Case, cases

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


@dataclass(frozen=True, kw_only=True)
class VolumeConfig(LayerConfig):
    """Options of `VolumeConv2d`."""

    _algorithms = ("auto", "scaled")
    reach: float = option(1.0, "How far the volume goes from 1, > 0.")


class VolumeCoefficients(NamedTuple):
    """What the branch computes."""

    volume: Tensor
    """``(B, 1)``."""


def scaled(x: Tensor, volume: Tensor, weight: Tensor, geometry: Any) -> Tensor:
    """The only algorithm: scale the static output."""
    out = shared_conv(x, weight, geometry)
    return out * volume.to(out.dtype)[:, :, None, None]


class _Volume(DynamicConvolution):
    """W(x) = v(x) W0 with one number v(x) = 1 + reach * sin(a^T pool(x))."""

    _functions: ClassVar = {"scaled": scaled}
    _exported_algorithm = "scaled"
    reach: float

    def _logits(self, context: Tensor, *, track: bool) -> Tensor:
        raise NotImplementedError

    def _volume(self, x: Tensor, *, track: bool) -> Tensor:
        with full_precision(x.device):
            return 1 + self.reach * torch.sin(self._logits(pool_context(x, 1, context_dtype(x.dtype)), track=track))

    def coefficients(self, x: Tensor) -> VolumeCoefficients:
        self._check_input(x)
        return VolumeCoefficients(self._volume(x, track=False))

    def kernel(self, x: Tensor) -> Tensor:
        volume = self.coefficients(x).volume[:, :, None, None, None]
        return (volume * self.weight).to(self.weight.dtype)

    def _compute(self, x: Tensor) -> Tensor:
        padded = self._padded(x)
        volume = self._volume(x, track=True)
        return add_bias(self._function(padded)(padded, volume, self.weight, self.geometry), self._fixed())

    def _fixed(self) -> Tensor | None:
        return self.bias

    def _costs_of(self, padded: tuple[int, int, int, int]) -> dict[str, Cost]:
        height, width = self.geometry.output_size(padded[2], padded[3])
        outputs = padded[0] * height * width
        return {"scaled": Cost(dense=outputs * self.weight.numel(), moved=2 * outputs * self.out_channels, calls=2)}


class VolumeConv2d(_Volume, DynamicConv2d):
    """As another package might have it."""

    config_class = VolumeConfig
    branch: BranchLinear

    def _build(self, config: VolumeConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.reach = config.reach
        self.context_norm = make_context_norm(config.context_norm, self.in_channels, device, dtype)
        self.branch = BranchLinear(self.in_channels, 1, 0.01, device, dtype)

    def _logits(self, context: Tensor, *, track: bool) -> Tensor:
        logits: Tensor = self.branch(normalise(self.context_norm, context, track=track))
        return logits

    def deployed(self) -> "DeployedVolumeConv2d":
        return DeployedVolumeConv2d(self)


class DeployedVolumeConv2d(_Volume, DeployedConv):
    """Its deployed form."""

    def __init__(self, layer: VolumeConv2d) -> None:
        super().__init__(layer)
        self.reach = layer.reach
        head = fold_context_norm(layer.context_norm, AffineMap.of(layer.branch))
        self.branch = DeployedBranch({"volume": head}, normalise=isinstance(layer.context_norm, nn.LayerNorm))
        self._adopt_settings(layer)

    def _logits(self, context: Tensor, *, track: bool) -> Tensor:
        logits: Tensor = self.branch(context)["volume"]
        return logits

    def _fixed(self) -> Tensor | None:
        parts = [part for part in (self.bias, self.shift) if part is not None]
        return sum(parts[1:], parts[0]) if parts else None

    def sample_bias(self, x: Tensor) -> Tensor | None:
        fixed = self._fixed()
        return None if fixed is None else fixed.expand(len(x), -1)


VOLUME = Family(
    name="volume",
    title="a volume for each sample",
    arxiv="0000.00000",
    citation="@misc{volume}",
    layer=VolumeConv2d,
    coefficients={"volume": Coefficient(symbol="v", role="gate", act="scales the kernel", element="kernel")},
    kinds=("pointwise",),
)
CASES = {str(case): case for case in cases(VOLUME, [{}, {"reach": 0.5, "context_norm": "batch"}])}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("check", CHECKS)
def test_it_keeps_the_contract(check: str, case: str) -> None:
    CHECKS[check](CASES[case])


@pytest.fixture
def volume(monkeypatch: pytest.MonkeyPatch) -> Family:
    """The family, registered for one test, but not with timm, which forgets no name."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    monkeypatch.setattr(registry, "_listeners", [])
    return register_family(VOLUME)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)
    ).eval()


def test_it_is_converted_trained_recorded_profiled_and_analysed(volume: Family) -> None:
    net, x = network(), torch.randn(2, 3, 9, 9)
    dynamic: Any = convert(net, "volume", reach=0.5)
    assert [type(dynamic[index]) for index in (0, 1, 4)] == [nn.Conv2d, VolumeConv2d, nn.Conv2d]
    torch.testing.assert_close(dynamic(x), net(x))
    optimizer = torch.optim.SGD(dynamic.parameters(), lr=0.1)
    dynamic.train()(x).square().mean().backward()
    optimizer.step()
    assert not dynamic.eval()[1].is_neutral
    record = conversion_of(dynamic)
    assert record == {"1": {"family": "volume", "hyperparameters": {"reach": 0.5}}}
    again = apply_conversion(network(), record)
    again.load_state_dict(dynamic.state_dict())
    torch.testing.assert_close(again(x), dynamic(x))
    assert profile(dynamic, (3, 9, 9)).params == sum(parameter.numel() for parameter in dynamic.parameters())
    (layer,) = collect_statistics(dynamic, [(x, torch.tensor([0, 1]))], ("a", "b")).layers
    assert layer.parts["volume"].role == "gate"


def test_it_is_deployed(volume: Family) -> None:
    dynamic: Any = convert(network(), "volume")
    nn.init.normal_(dynamic[1].branch.weight)
    x = torch.randn(2, 3, 9, 9)
    plan = plan_deployment(dynamic, (3, 9, 9))
    assert dict(plan.folded) == {"2": "1"}
    for backend in ("torch", "native"):
        torch.testing.assert_close(deploy(dynamic, backend=backend)(x), dynamic(x), **TOLERANCE["float32"])


@pytest.mark.export
def test_it_is_exported(volume: Family, tmp_path: Path) -> None:
    dynamic: Any = convert(network(), "volume")
    nn.init.normal_(dynamic[1].branch.weight)
    report = export_onnx(dynamic, tmp_path / "net.onnx", torch.randn(2, 3, 9, 9), free_size=False)
    assert report.difference < 1e-4


def test_a_layer_without_a_deployed_form_stays(volume: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(VolumeConv2d, "deployed")
    dynamic: Any = convert(network(), "volume")
    plan = plan_deployment(dynamic, (3, 9, 9))
    assert dict(plan.undeployed) == {"1": "VolumeConv2d has no deployed form"}
    assert plan.kept == {"2": "VolumeConv2d has no deployed form"}
    assert "1  stays: VolumeConv2d has no deployed form" in str(plan)
    x = torch.randn(2, 3, 9, 9)
    deployed: Any = plan.apply(dynamic)
    assert isinstance(deployed[1], VolumeConv2d)
    torch.testing.assert_close(deployed(x), dynamic(x))


def test_a_case_says_what_it_is() -> None:
    case = Case(VOLUME, "pointwise", {"kernel_size": 1, "reach": 0.5})
    assert str(case) == "volume-pointwise"
    assert case.algorithms == ["scaled", "auto"]
