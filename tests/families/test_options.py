"""A layer's options are known however it was made, and from them an equal layer is built."""

import copy
import dataclasses
import inspect
import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dynaconv import DCDConv2d, DCDLinear
from dynaconv.conversion import apply_conversion, conversion_of
from dynaconv.errors import ConversionError
from dynaconv.families import DynamicLayer
from tests.families.cases import enlarge
from tests.helpers import LAYERS
from tests.messages import refuses, spelled

# Sets of options that go together; every option of a family is away from its default in one of them.
AWAY: dict[str, list[dict[str, Any]]] = {
    "condconv": [
        {"num_experts": 3, "context_norm": "layer", "algorithm": "kernel"},
        {"context_axis": -2},
        {"context_features": 5, "residual": True},
    ],
    "dcd": [
        {"variant": "scale", "scale_activation": "linear", "gain": 0.5, "reduction": 2, "algorithm": "kernel"},
        {"variant": "residual", "latent_dim": 3, "blocks": 2, "min_hidden_channels": 7, "activation": "silu"},
        {"fusion": "joint", "latent_taps": 2, "context_size": 2, "context_norm": None, "hidden_channels": 5},
        {"norm": "batch", "hidden_norm": "unit", "scale_activation": "tanh"},
        {"context_norm": "layer", "hidden_norm": None, "weight_norm": False},
        {"context_features": 5},
    ],
    "dyconv": [
        {"num_kernels": 3, "reduction": 2, "temperature": 0.5, "algorithm": "mixed"},
        {"context_axis": -1},
        {"context_norm": "running", "min_hidden_channels": 17},
        {"context_features": 5, "residual": True},
    ],
    "fdconv": [
        {"num_kernels": 5, "reduction": 2, "gate": "tanh", "temperature": 2.0},
        {"band_gate": "softmax", "band_groups": 2},
        {"min_hidden_channels": 7, "spectra": 2, "kernel_temperature": 2.0, "local_gate": None, "low_band": True},
        {"stored": "kernel", "bands": [2, 4], "gate_limit": 1.5, "band_kernel_size": 5, "context_norm": "running"},
        {"algorithm": "kernel", "context_features": 5},
    ],
    "kernel_warehouse": [
        {"context_features": 5},
        {"budget": 2, "reduction": 2, "temperature": 0.5, "algorithm": "kernel", "whole_taps": True},
        {"budget": 0.5, "start": "least_squares", "warehouse": "a", "out_divisor": 4, "in_divisor": 1},
        {"branch_norm": "layer", "min_hidden_channels": 17, "context_norm": "batch", "basis_reduction": 4},
    ],
    "odconv": [
        {"num_kernels": 2, "reduction": 2, "temperature": 2.5, "algorithm": "mixed"},
        {"context_norm": "batch", "min_hidden_channels": 17},
        {"context_features": 5},
    ],
    "se": [
        {"reduction": 2, "context_norm": "batch", "algorithm": "kernel"},
        {"min_hidden_channels": 9, "context_features": 5},
    ],
}
ACTS_IN_NETWORKS = {"kernel_warehouse": {"warehouse", "basis_reduction", "start"}}
"""Options about what layers share, or about a layer's start from a static one; the family's tests show their effect."""
OF_BLOCKS = {"shared_context"}
"""Options that `convert` sets; tests/conversion/test_block_context.py shows their effect."""
CASES = [(family, options) for family, several in AWAY.items() for options in several]


class Net(nn.Module):
    """A network that holds layers made by hand."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = called(layer, x)
        return x


def called(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The output of a layer, with a context if it takes one."""
    features = getattr(layer, "context_features", None)
    context = () if features is None else (torch.linspace(-1, 1, len(x) * features).reshape(len(x), -1),)
    out: torch.Tensor = layer(x, *context)
    return out


def test_every_option_is_away_from_its_default_somewhere() -> None:
    assert AWAY.keys() == LAYERS.keys()
    for family, several in AWAY.items():
        fields = {field.name: field.default for field in dataclasses.fields(LAYERS[family](4, 4, 3).config)}
        assert {name for options in several for name in options} == fields.keys() - OF_BLOCKS, family
        assert all(fields[name] != value for options in several for name, value in options.items()), family


@pytest.mark.parametrize(("family", "options"), CASES)
def test_constructor_from_conv_and_record_agree(family: str, options: dict[str, Any]) -> None:
    made = LAYERS[family](8, 16, 3, **options)
    converted = LAYERS[family].from_conv(nn.Conv2d(8, 16, 3), **options)
    assert made.config == converted.config == type(made.config)(**options)
    assert made.config.changes() == options
    assert type(made.config).from_dict(made.config.to_dict()) == made.config
    enlarge(made)
    network = Net(made).eval()
    record = json.loads(json.dumps(conversion_of(network)))
    assert record == {"layers.0": {"family": family, "hyperparameters": options}}
    again = apply_conversion(Net(nn.Conv2d(8, 16, 3)), record).eval()
    again.load_state_dict(network.state_dict())
    x = torch.randn(2, 8, 6, 7)
    torch.testing.assert_close(again(x), network(x), rtol=0, atol=0)


@pytest.mark.parametrize(("family", "options"), CASES)
def test_every_option_acts(family: str, options: dict[str, Any]) -> None:
    def facts(chosen: dict[str, Any]) -> tuple[Any, ...]:
        torch.manual_seed(0)
        layer = LAYERS[family](64, 32, 3, **chosen)
        enlarge(layer)
        shapes = {name: value.shape for name, value in layer.state_dict().items()}
        x = torch.randn(2, 64, 5, 5, generator=torch.Generator().manual_seed(1)) + 0.5
        return shapes, layer.algorithm, called(layer, x).tolist()

    for name in options.keys() - ACTS_IN_NETWORKS.get(family, set()):
        try:
            without = facts({key: value for key, value in options.items() if key != name})
        except ValueError:
            # The others need it.
            continue
        assert facts(options) != without, name


@pytest.mark.parametrize("family", LAYERS)
def test_algorithm_set_later_is_recorded(family: str) -> None:
    layer = LAYERS[family](8, 8, 1)
    twin = copy.deepcopy(layer)
    layer.algorithm = "kernel"
    assert conversion_of(Net(layer))["layers.0"]["hyperparameters"] == {"algorithm": "kernel"}
    assert twin.algorithm == "auto"
    with refuses(ValueError, "algorithm"):
        layer.algorithm = "fast"
    assert layer.algorithm == "kernel"


def test_linear_layers_are_recorded() -> None:
    linear = DCDLinear(8, 16, latent_dim=2, scale_activation="sigmoid", gain=1.0)
    enlarge(linear)
    network = Net(linear).eval()
    again = apply_conversion(Net(nn.Linear(8, 16)), conversion_of(network)).eval()
    again.load_state_dict(network.state_dict())
    x = torch.randn(3, 8)
    assert torch.equal(again(x), network(x))


def test_numbers_of_other_libraries_are_plain_in_a_record() -> None:
    layer = LAYERS["dyconv"](8, 8, 1, num_kernels=np.int64(3))
    assert json.dumps(conversion_of(Net(layer)))


@pytest.mark.parametrize("options", [{"gain": np.float32(0.5)}, {"latent_dim": np.int64(3)}], ids=spelled)
def test_numbers_of_numpy_equal_those_of_python(options: dict[str, Any]) -> None:
    config = DCDConv2d(8, 8, 1, **options).config
    assert config == DCDConv2d(8, 8, 1, **{name: value.item() for name, value in options.items()}).config
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()


def test_classes_of_no_family_cannot_be_recorded() -> None:
    class Own(DCDConv2d):
        pass

    with refuses(ConversionError, "layers.0"):
        conversion_of(Net(Own(8, 8, 1)))
    with refuses(ConversionError, "Own"):
        conversion_of(Own(8, 8, 1))


def test_unknown_options_are_named() -> None:
    with refuses(ValueError, "latent_dims"):
        DCDConv2d(4, 4, 1).config.from_dict({"latent_dims": 2})


def test_configs_are_frozen() -> None:
    for layer in (DCDLinear(4, 4), *(kind(4, 4, 1) for kind in LAYERS.values())):
        assert isinstance(layer, DynamicLayer)
        with pytest.raises(dataclasses.FrozenInstanceError):
            layer.config.algorithm = "kernel"


@pytest.mark.parametrize("kind", [*LAYERS.values(), DCDLinear])
def test_signature_and_docstring_name_every_option(kind: type[DynamicLayer]) -> None:
    parameters = inspect.signature(kind).parameters
    options = {name: each.default for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY}
    fields = {field.name: field.default for field in dataclasses.fields(kind.config_class)}
    left_out = {"fusion", "latent_taps", "context_size"} if kind is DCDLinear else set()
    assert options == {name: default for name, default in fields.items() if name not in left_out}
    assert kind.__doc__ is not None
    section = kind.__doc__.partition("Options:\n")[2].partition("\n\n")[0]
    told = re.findall(r"^        (\w+): \S", section, re.MULTILINE)
    assert told == list(options)


@pytest.mark.parametrize(("kind", "name"), [(DCDConv2d, "latent"), (DCDLinear, "fusion")])
def test_an_unknown_option_is_a_type_error(kind: Any, name: str) -> None:
    with refuses(TypeError, kind.__name__, name):
        kind(8, 8, 1, **{name: None})
