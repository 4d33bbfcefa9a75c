"""Whatever stands in the place of a convolution or a linear layer has its attributes, for networks that read them."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv import convert, deploy
from dynaconv.conversion.proxy import CONV2D_ATTRIBUTES, IdentityProxy, SequentialProxy
from dynaconv.conversion.swap import NormedConv2d
from dynaconv.deployment.deploy import deployed_layers
from dynaconv.export import ExportReport, export_onnx, export_openvino, export_program
from dynaconv.export._dcd_form import RuntimeDCD, in_runtime_form
from dynaconv.export.capture import frozen_copy
from dynaconv.families import DCDLinear, families
from dynaconv.native import NativeProgram
from dynaconv.testing.cases import geometries
from tests.families.cases import GEOMETRIES
from tests.helpers import LAYERS

IMAGES = torch.rand(2, 8, 9, 12)


def attributes(conv: nn.Module) -> dict[str, Any]:
    """What can be compared: of a weight its type, its place and the shape of one kernel."""
    found: dict[str, Any] = {name: getattr(conv, name) for name in CONV2D_ATTRIBUTES - {"weight", "bias"}}
    weight, bias = conv.weight, conv.bias
    assert isinstance(weight, Tensor)
    assert bias is None or isinstance(bias, Tensor)
    found |= {"weight": (weight.dtype, weight.device, weight.shape[-4:])}
    return found | {"bias": bias is None or bias.shape[-1:] == (conv.out_channels,)}


def fuse_block(conv: nn.Conv2d) -> nn.Module:
    """A block as ultralytics has it, in which the batch norm can be folded into the convolution."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv
            self.bn = nn.BatchNorm2d(conv.out_channels)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.bn(self.conv(x))
            return y

        def forward_fuse(self, x: Tensor) -> Tensor:
            y: Tensor = self.conv(x)
            return y

    return Block()


def converted(conv: nn.Conv2d, family: str) -> nn.Module:
    return LAYERS[family].from_conv(conv)


def in_a_block(conv: nn.Conv2d, family: str) -> nn.Module:
    return convert(
        fuse_block(conv), family, include="conv", kinds=("pointwise", "depthwise", "grouped", "spatial")
    ).conv


def deployed(conv: nn.Conv2d, family: str) -> nn.Module:
    network = nn.Sequential(converted(conv, family), nn.BatchNorm2d(conv.out_channels)).eval()
    return deploy(network, example=IMAGES)[0]


ALONE: dict[str, Callable[[nn.Conv2d, str], nn.Module]] = {
    "converted": converted,
    "in a block that folds": in_a_block,
    "deployed": deployed,
}
every_family = pytest.mark.parametrize("family", LAYERS)


@pytest.mark.parametrize(
    ("geometry", "family"), [(geometry, family.name) for family in families() for geometry in geometries(family)]
)
@pytest.mark.parametrize("place", ALONE)
def test_a_dynamic_layer_has_the_attributes_of_the_convolution(place: str, geometry: str, family: str) -> None:
    conv = nn.Conv2d(
        8, **{"out_channels": 16, **GEOMETRIES[geometry]}, dtype=torch.float64 if place == "converted" else None
    )
    made = ALONE[place](conv, family)
    assert not isinstance(made, nn.Conv2d)
    assert attributes(made) == attributes(conv)
    if place == "in a block that folds":
        assert isinstance(made, NormedConv2d)
        assert not hasattr(made, "algorithm")


def test_a_dynamic_linear_layer_has_the_attributes_of_the_static_one() -> None:
    linear = nn.Linear(12, 7, bias=False, dtype=torch.float64)
    names = [name for name in vars(linear) if not name.startswith("_")]
    layer = DCDLinear.from_linear(linear)
    assert {name: getattr(layer, name) for name in names} == {name: getattr(linear, name) for name in names}
    assert (layer.weight.dtype, layer.weight.shape, layer.bias) == (torch.float64, (7, 12), None)


class Padded(nn.Module):
    """As transformers' MobileNets: pads for a convolution by what that says of itself, and computes in its type."""

    def __init__(self, conv: nn.Conv2d, norm: bool = True) -> None:
        super().__init__()
        self.convolution = conv
        self.normalization = nn.BatchNorm2d(conv.out_channels) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        conv = self.convolution
        assert (x.shape[1], conv.transposed, conv.padding_mode) == (conv.in_channels, False, "zeros")
        assert conv.weight.shape[-3] * conv.groups == conv.in_channels
        sides: list[int] = []
        lengths = zip(x.shape[:1:-1], conv.stride[::-1], conv.kernel_size[::-1], conv.dilation[::-1], strict=True)
        for length, stride, kernel, dilation in lengths:
            beyond = max(kernel - (int(length) % stride or stride), 0)
            sides += [beyond // 2 * dilation, (beyond - beyond // 2) * dilation]
        x = conv(F.pad(x.to(conv.weight.dtype), sides))
        return F.relu6(x if self.normalization is None else self.normalization(x))


class Reader(nn.Module):
    """Reads its layers in a forward pass, also those that a sequence runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Padded(nn.Conv2d(3, 8, 3, stride=2, bias=False))
        self.wide = Padded(nn.Conv2d(8, 24, 1, bias=False))
        self.depth = Padded(nn.Conv2d(24, 24, 3, stride=2, groups=24, bias=False))
        self.narrow = Padded(nn.Conv2d(24, 20, 1), norm=False)
        self.sequence = nn.Sequential(nn.Conv2d(20, 24, 1), nn.ReLU(), nn.Conv2d(24, 16, 1, bias=False), nn.ReLU())
        self.classifier = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(self.depth(self.wide(self.stem(x))))
        first, _, last, _ = self.sequence
        assert (first.out_channels, last.in_channels, last.out_channels) == (24, 24, 16)
        assert first.bias is not None
        x = self.sequence(x.to(first.weight.dtype)).mean((2, 3)).to(self.classifier.weight.dtype)
        y: Tensor = self.classifier(x)
        return y.reshape(-1, self.classifier.out_features)


def reader(family: str) -> nn.Module:
    """Converted, with norms that have seen images and branches that depend on them."""
    torch.manual_seed(0)
    network = convert(Reader(), family, kinds=("pointwise", "depthwise", "spatial") if family == "dcd" else None)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "branch" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
        for _ in range(5):
            network(torch.rand(8, 3, 32, 24))
    return network.eval()


PICTURES = torch.rand(2, 3, 32, 24)


def as_native(network: nn.Module) -> nn.Module:
    return deploy(network, example=PICTURES, backend="native")


def restored_with_hooks(network: nn.Module) -> nn.Module:
    made = as_native(network)
    for module in made.modules():
        if isinstance(module, NativeProgram):
            module.register_forward_hook(lambda *_: None)
    return frozen_copy(made)


FORMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deployed": lambda network: deploy(network, example=PICTURES),
    "native": as_native,
    "native, copied": lambda network: copy.deepcopy(as_native(network)),
    "native, pickled": lambda network: pickle.loads(pickle.dumps(as_native(network))),
    "restored": lambda network: frozen_copy(as_native(network)),
    "restored with hooks": restored_with_hooks,
    "for runtimes": lambda network: in_runtime_form(deployed_layers(frozen_copy(network))),
    "for runtimes, copied": lambda network: copy.deepcopy(in_runtime_form(deployed_layers(network))),
}


@every_family
@pytest.mark.parametrize("form", FORMS)
def test_a_network_may_read_what_stands_in_the_place_of_its_layers(form: str, family: str) -> None:
    network = reader(family)
    made = FORMS[form](network)
    with torch.no_grad():
        torch.testing.assert_close(made(PICTURES), network(PICTURES), rtol=1e-4, atol=1e-5)
    was = dict(Reader().named_modules())
    for name, conv in was.items():
        if isinstance(conv, nn.Conv2d):
            assert attributes(made.get_submodule(name)) == attributes(conv), name
    kinds = {type(module) for module in made.modules()}
    assert (NativeProgram in kinds) == form.startswith("native")
    assert (RuntimeDCD in kinds) == (form.startswith("for") and family == "dcd")
    if family == "dcd":
        assert (IdentityProxy in kinds) == ("native" in form or "restored" in form)
        assert (SequentialProxy in kinds) == ("native" in form or "restored" in form)


def test_a_stand_in_adds_nothing_to_the_modules_of_a_network() -> None:
    form = in_runtime_form(deployed_layers(reader("dcd")))
    pointwise = [name for name, module in Reader().named_modules() if getattr(module, "kernel_size", None) == (1, 1)]
    assert all(isinstance(form.get_submodule(name), RuntimeDCD) for name in pointwise)
    assert not any(isinstance(module, LAYERS["dcd"]) and module.kernel_size == (1, 1) for module in form.modules())
    assert not any(f"{name}.weight" in form.state_dict() for name in pointwise)
    assert not hasattr(form.get_submodule(pointwise[0]), "no_such_attribute")


FORMATS: dict[str, tuple[Callable[..., ExportReport], dict[str, Any]]] = {
    "net.onnx": (export_onnx, {}),
    "native.onnx": (export_onnx, {"native": True}),
    "net.xml": (export_openvino, {}),
    "native.xml": (export_openvino, {"native": True}),
    "net.pt2": (export_program, {}),
}


@pytest.mark.export
@pytest.mark.parametrize("file", FORMATS)
@pytest.mark.parametrize("form", ["as it is", "deployed", "native"])
def test_a_network_that_reads_its_layers_is_exported(form: str, file: str, tmp_path: Path) -> None:
    network = reader("dcd")
    made = network if form == "as it is" else FORMS[form](network)
    export, options = FORMATS[file]
    assert export(made, tmp_path / file, PICTURES, free_size=False, **options).difference < 1e-4


@pytest.mark.export
@pytest.mark.parametrize("family", sorted(set(LAYERS) - {"dcd"}))
def test_a_network_of_any_family_that_reads_its_layers_is_exported(family: str, tmp_path: Path) -> None:
    made = as_native(reader(family))
    assert export_onnx(made, tmp_path / "net.onnx", PICTURES, free_size=False).difference < 1e-4
