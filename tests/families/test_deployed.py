"""The deployed form of every family: function and contract stay, and it takes in a fixed norm behind it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynaconv import plan_deployment
from dynaconv.families import DCDConv2d, DCDLinear, SEConv2d
from dynaconv.testing import assert_close_to_scale
from dynaconv.testing.cases import images
from tests.families.cases import CASES, enlarge, randomise_norms
from tests.families.test_contract import ready
from tests.helpers import LAYERS, TOLERANCE
from tests.messages import refuses

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def affine(channels: int) -> tuple[Tensor, Tensor]:
    """A scale a channel, of both signs and away from zero, and a shift."""
    generator = torch.Generator().manual_seed(2)
    scale = torch.rand(channels, generator=generator, dtype=torch.float64) + 0.3
    return scale * (-1.0) ** torch.arange(channels), torch.randn(channels, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", CASES)
def test_coefficients_stay(name: str) -> None:
    layer, x = ready(name).eval(), images()
    want, got = layer.coefficients(x), layer.deployed().coefficients(x)
    if name.startswith("dcd-norm"):
        # Latent norms are part of Phi.
        want, got = want._replace(fusion=None), got._replace(fusion=None)
    torch.testing.assert_close(got, want, **TOLERANCE["float64"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["dcd-norm", "dcd-joint", "dyconv-square", "odconv-square", "se-square"])
def test_half_precision_branch_becomes_float32(name: str, dtype: str) -> None:
    layer, x = ready(name).eval().to(getattr(torch, dtype)), images(dtype=getattr(torch, dtype))
    want = layer(x).double()
    scale, shift = affine(want.shape[1])
    form = layer.deployed()
    form.absorb_affine(scale, shift)
    assert {p.dtype for p in form.branch.parameters()} == {torch.float32}
    got = form(x)
    assert got.dtype == x.dtype
    assert_close_to_scale(got.double(), want * scale[:, None, None] + shift[:, None, None], dtype)


def test_linear_layer_with_latent_norms() -> None:
    layer = DCDLinear(12, 5, norm="batch", latent_dim=3).double().eval()
    enlarge(layer)
    randomise_norms(layer)
    x = torch.randn(4, 12, dtype=torch.float64)
    scale, shift = affine(5)
    want = layer(x) * scale + shift
    form = layer.deployed()
    form.absorb_affine(scale, shift)
    torch.testing.assert_close(form(x), want, **TOLERANCE["float64"])
    torch.testing.assert_close(form(x.reshape(2, 2, 12)), want.reshape(2, 2, 5), **TOLERANCE["float64"])
    rows = torch.einsum("boi,bi->bo", form.kernel(x), x) + form.sample_bias(x)
    torch.testing.assert_close(rows, want, **TOLERANCE["float64"])


def test_squeeze_excite_refuses_a_channel_that_vanishes() -> None:
    form = SEConv2d(4, 6, 1).deployed()
    before = copy.deepcopy(form.state_dict())
    with refuses(ValueError):
        form.absorb_affine(torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0, 1.0]), torch.zeros(6))
    torch.testing.assert_close(form.state_dict(), before, rtol=0, atol=0)


def test_squeeze_excite_with_a_layer_norm_keeps_the_norm_behind_it() -> None:
    """The layer norm of a scaled output is not that of the output."""
    torch.manual_seed(0)
    model = nn.Sequential(SEConv2d(4, 6, 1, context_norm="layer"), nn.BatchNorm2d(6)).eval()
    nn.init.uniform_(model[1].weight, 0.5, 2)  # type: ignore[arg-type]
    x = torch.randn(2, 4, 5, 5)
    plan = plan_deployment(model, (4, 5, 5))
    assert plan.kept == {"1": "a layer norm of the output stands before the branch"}
    torch.testing.assert_close(plan.apply(model)(x), model(x), **TOLERANCE["float32"])


@pytest.mark.parametrize("family", LAYERS)
def test_a_deployed_layer_says_what_it_is(family: str) -> None:
    layer = LAYERS[family](4, 6, 3, padding=1, stride=2, algorithm="kernel")
    form: Any = layer.deployed()
    assert (form.algorithm, form.asked) == ("kernel", "kernel")
    assert not form.training
    assert "4, 6, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1)" in repr(form)
    assert form.algorithm_costs((2, 4, 9, 9)) == layer.algorithm_costs((2, 4, 9, 9))
    assert form.algorithm_costs((2, 4, 9, 9)).keys() == set(form.algorithms)
    with refuses(ValueError, "algorithm"):
        form.algorithm = "fastest"
    with refuses(ValueError, "in_channels", layer=type(form).__name__):
        form(torch.randn(2, 3, 9, 9))


PREPARED = [
    name
    for name, case in CASES.items()
    if case.family.name == "dcd" and "prepared" in case.make().deployed().algorithms  # type: ignore[operator]
]


@pytest.mark.parametrize("name", PREPARED)
def test_prepared_constants_follow_the_layer(name: str) -> None:
    """They are no part of the state, so whatever changes the layer works them out anew."""
    x, other = images(), ready(name).eval().deployed()
    form: Any = ready(name).eval().deployed()
    form.algorithm = "prepared"
    assert form.state_dict().keys() == other.state_dict().keys()
    other.absorb_affine(*affine(form.out_channels))
    changes: dict[str, Callable[[], Any]] = {
        "norm taken in": lambda: form.absorb_affine(*affine(form.out_channels)),
        "state loaded": lambda: form.load_state_dict(other.state_dict()),
        "type": lambda: form.float().double(),
    }
    for what, change in changes.items():
        change()
        want = copy.deepcopy(form)
        want.algorithm = "auto"
        assert form.prepared is not None
        torch.testing.assert_close(form(x), want(x), **TOLERANCE["float64"], msg=what)
    assert_close_to_scale(form.float()(x.float()), want(x).float(), "float32")


@pytest.mark.parametrize("name", PREPARED)
def test_prepared_layers_that_are_neutral_take_a_batch(name: str) -> None:
    conv, x = CASES[name].static_twin(dtype=torch.float64).eval(), images()
    form: Any = CASES[name].neutral(conv).deployed()
    form.algorithm = "prepared"
    torch.testing.assert_close(form(x), conv(x), **TOLERANCE["float64"])


def test_prepared_half_precision_and_autocast_compute_the_branch_in_float32() -> None:
    form: Any = ready("dcd-pointwise").eval().deployed().float()
    form.algorithm = "prepared"
    x, called = images(dtype=torch.float32), []
    form.prepared.register_forward_hook(lambda *_: called.append(True))
    form(x)
    assert called == [True]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        form(x)
    form.bfloat16()(x.bfloat16())
    assert called == [True]


def test_every_form_of_prepared_layers_in_both_layouts() -> None:
    torch.manual_seed(0)
    sizes = {"kernel": (12, 20), "product": (160, 240), "expand": (384, 64), "mixed": (384, 400)}
    for form, (inner, outer) in sizes.items():
        layer = DCDConv2d(inner, outer, 1, scale_activation="linear").double().eval()
        enlarge(layer)
        deployed: Any = layer.deployed()
        deployed.algorithm = "prepared"
        assert deployed.prepared.form == form
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(3, inner, 5, 4, dtype=torch.float64).to(memory_format=layout)
            torch.testing.assert_close(deployed(x), layer(x), **TOLERANCE["float64"])
