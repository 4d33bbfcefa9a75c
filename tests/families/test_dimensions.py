"""The contract in one, two and three dimensions, also of transposed convolutions, and over random geometries."""

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynaconv import convert, deploy, freeze
from dynaconv.families import DynamicConv, Family, families, get_family
from dynaconv.families.contract.convolution import conv_arguments
from dynaconv.testing import CHECKS, Case, assert_close
from dynaconv.testing.contract import convolve_each, value_and_gradients
from tests.families.cases import OTHER_CASES, enlarge
from tests.messages import refuses

# torch warns, once, that it may copy the input for "same" padding with even kernels; that is one of the cases.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
LAYERS = [(family, layer) for family in families() for layer in family.convolutions]
NAMES = [layer.__name__ for _, layer in LAYERS]
_SOON = [name for name in OTHER_CASES if name.endswith(("-square", "-even"))]
"""Cases of the usual run."""
_EXPORT = "export_keeps_the_batch_free"
_EXPORTED = [name for name in _SOON if "1d-square" in name or name.startswith(("dcd-", "odconv-"))]
"""Cases that are exported in the usual run: one with many taps takes seconds."""


@pytest.mark.parametrize("case", _SOON)
@pytest.mark.parametrize("check", [check for check in CHECKS if check != _EXPORT])
def test_contract(check: str, case: str) -> None:
    CHECKS[check](OTHER_CASES[case])


@pytest.mark.parametrize("case", _EXPORTED)
def test_export_keeps_the_batch_free(case: str) -> None:
    CHECKS[_EXPORT](OTHER_CASES[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHER_CASES)
@pytest.mark.parametrize("check", CHECKS)
def test_contract_of_every_geometry(check: str, case: str) -> None:
    CHECKS[check](OTHER_CASES[case])


def test_every_layer_is_here() -> None:
    covered = {case.kind for case in OTHER_CASES.values()} | {family.layer for family in families()}
    assert covered == {layer for _, layer in LAYERS}


def test_dimensions_are_those_of_the_table_in_the_documentation() -> None:
    stems = {"dcd": "DCD", "condconv": "Cond", "dyconv": "DY", "odconv": "OD", "se": "SE"}
    stems["kernel_warehouse"] = "KernelWarehouse"
    for name, stem in stems.items():
        kinds = {layer.__name__ for family, layer in LAYERS if family.name == name}
        transposed = (
            {f"{stem}ConvTranspose{dims}d" for dims in (1, 2, 3)} if name in ("dcd", "condconv", "dyconv") else set()
        )
        assert kinds == {f"{stem}Conv{dims}d" for dims in (1, 2, 3)} | transposed


@pytest.mark.parametrize("seed", range(300))
def test_random_geometries(seed: int) -> None:
    check_random_geometry(seed)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(100))
def test_many_random_geometries(block: int) -> None:
    for seed in range(300 + 97 * block, 300 + 97 * (block + 1)):
        check_random_geometry(seed)


def check_random_geometry(seed: int) -> None:
    """Compare a random layer with one convolution per sample, in value and gradient, and its neutral start."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    family, layer_class = LAYERS[seed % len(LAYERS)]
    arguments, options = random_arguments(draw, layer_class, family), random_options(draw, family)
    case = Case(family, f"{seed}", {**arguments, **options}, layer_class)
    layer = case.ready(algorithm=draw.choice(case.algorithms))
    batch = draw.randint(1, 3)
    x = random_input(draw, layer, batch).requires_grad_()
    leaves = [x, *layer.parameters()]
    want = value_and_gradients(convolve_each(layer, x), leaves)
    assert_close(value_and_gradients(layer(x), leaves), want, message=f"{layer} on {tuple(x.shape)}")
    assert_close(layer.deployed()(x.detach()), want[0], message=f"deployed {layer}")
    static: Any = case.static_twin(dtype=torch.float64)
    neutral = case.neutral(static)
    assert_close(neutral(x), static(x), message=f"neutral {layer}")
    again: nn.Module = neutral.static_conv()
    assert_close(again(x), static(x), message=f"static_conv of {layer}")
    assert conv_arguments(again) == conv_arguments(static)


def random_arguments(draw: random.Random, layer: type[DynamicConv], family: Family) -> dict[str, Any]:
    """Draw arguments of torch's convolution that one layer class of a family takes."""
    dims = layer.dims
    groups = draw.choice((1, 1, 2, 3)) if family.grouped else 1
    in_channels, out_channels = groups * draw.randint(1, 4), groups * draw.randint(1, 4)
    if family.kernel_sizes is None:
        kernel_size = tuple(draw.randint(1, (7, 5, 3)[dims - 1]) for _ in range(dims))
    else:
        kernel_size = (draw.choice(sorted(family.kernel_sizes)),) * dims
    stride = tuple(draw.choice((1, 1, 2, 3)) for _ in range(dims))
    dilation = tuple(draw.choice((1, 1, 2)) for _ in range(dims))
    reach = [spacing * (size - 1) for spacing, size in zip(dilation, kernel_size, strict=True)]
    padding: Any = tuple(draw.randint(0, (each + 1) // 2) for each in reach)
    arguments: dict[str, Any] = {"groups": groups, "bias": draw.random() < 0.7, "dilation": dilation}
    if layer.transposed:
        most = [max(step, spacing) - 1 for step, spacing in zip(stride, dilation, strict=True)]
        arguments["output_padding"] = tuple(draw.randint(0, each) for each in most)
    elif draw.random() < 0.25:
        padding, stride = draw.choice(("same", "valid")), (1,) * dims
    elif draw.random() < 0.25:
        arguments["padding_mode"] = draw.choice(("reflect", "replicate", "circular"))
    return {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "kernel_size": kernel_size,
        "stride": stride,
        "padding": padding,
        **arguments,
    }


def random_options(draw: random.Random, family: Family) -> dict[str, Any]:
    """Draw options of a family's layer that change how its kernel is made."""
    by_family: dict[str, list[dict[str, Any]]] = {
        "dcd": [{}, {}, {"fusion": "joint"}, {"fusion": "channel", "context_size": 2}, {"variant": "scale"}],
        "condconv": [{}, {"num_experts": 3}],
        "dyconv": [{}, {"num_kernels": 2, "temperature": 2.0}],
        "odconv": [{}, {"num_kernels": 1}],
        "kernel_warehouse": [{}, {"budget": 2}, {"whole_taps": True, "temperature": 0.5}],
    }
    return draw.choice(by_family.get(family.name, [{}]))


def random_input(draw: random.Random, layer: DynamicConv, batch: int) -> torch.Tensor:
    """Draw an input that is large enough for the layer's kernel and padding."""
    reach = [spacing * (size - 1) + 1 for spacing, size in zip(layer.dilation, layer.kernel_size, strict=True)]
    sizes = (
        [each + draw.randint(0, 4) for each in reach] if not layer.transposed else [draw.randint(2, 6) for _ in reach]
    )
    return torch.randn(batch, layer.in_channels, *sizes, dtype=torch.float64)


class Decoder(nn.Module):
    """Goes down and up again to the size it came from, as U-Nets do."""

    def __init__(self, *, positional: bool = False) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1)
        self.positional = positional

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(x)
        out: Tensor = self.up(y, x.shape[2:]) if self.positional else self.up(y, output_size=x.shape[2:])
        return out


@pytest.mark.parametrize("family", [family.name for family in families() if any(k.transposed for k in family.others)])
def test_an_output_size_takes_the_place_of_the_output_padding(family: str) -> None:
    kind: Any = next(k for k in get_family(family).others if k.transposed and k.dims == 2)
    layer = kind(8, 4, 3, stride=(2, 3), padding=1, dtype=torch.float64).eval()
    wider = kind(8, 4, 3, stride=(2, 3), padding=1, output_padding=(1, 2), dtype=torch.float64).eval()
    enlarge(layer)
    wider.load_state_dict(layer.state_dict())
    x = torch.randn(2, 8, 4, 5, dtype=torch.float64)
    want, form = wider(x), layer.deployed()
    size = want.shape[2:]
    for given in (size, list(size), want.shape):
        assert_close(layer(x, output_size=given), want)
    assert_close(layer(x, size), want)
    assert_close(layer(x, output_size=layer(x).shape), layer(x))
    for algorithm in layer.algorithms:
        form.algorithm = algorithm
        assert_close(form(x, output_size=size), want)
    assert layer(x).shape == (2, 4, 7, 13)
    for wrong in ((6, 13), (7, 16), (7,), (2, 4, 1, 7, 13)):
        with refuses(ValueError, "output_size", "(7, 13)", "(8, 15)"):
            layer(x, output_size=wrong)
    with refuses(TypeError, "output_size"):
        get_family(family).layer(8, 4, 3)(torch.randn(2, 8, 4, 5), output_size=(2, 3))


@pytest.mark.parametrize("positional", [False, True], ids=["keyword", "positional"])
def test_a_decoder_that_passes_sizes_is_converted_deployed_and_frozen(positional: bool) -> None:
    net, x = Decoder(positional=positional).double().eval(), torch.randn(2, 3, 8, 9, dtype=torch.float64)
    dynamic: Any = convert(net, "dyconv", kinds="transposed")
    assert_close(dynamic(x), net(x))
    enlarge(dynamic.up)
    assert dynamic(x).shape == (2, 4, 8, 9)
    assert_close(deploy(dynamic, example=x)(x), dynamic(x))
    frozen: Any = freeze(dynamic, "up", x)
    assert type(frozen.up) is nn.ConvTranspose2d
    assert frozen(x).shape == dynamic(x).shape
    program = torch.export.export(dynamic, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False)
    other = torch.randn(3, 3, 8, 9, dtype=torch.float64)
    assert_close(program.module()(other), dynamic(other))
