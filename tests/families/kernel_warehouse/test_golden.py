"""Networks of the published KernelWarehouse layers: stored outputs, kernels, attention and gradients."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynaconv import published_layer
from dynaconv.errors import CheckpointError
from dynaconv.families import set_temperature
from dynaconv.families.kernel_warehouse.layer import KernelWarehouseLayer
from dynaconv.families.kernel_warehouse.published import (
    load_published_layers,
    our_name,
    published_layers,
    published_name,
)
from tests.families.dcd.test_golden import load
from tests.helpers import TOLERANCE
from tests.messages import refuses

FILES = sorted((Path(__file__).parents[2] / "golden").glob("kernel_warehouse_*.safetensors"))
ALGORITHMS = ["auto", "kernel", "grouped"]


def build(
    path: Path, algorithm: str = "auto"
) -> tuple[nn.Sequential, dict[str, KernelWarehouseLayer], dict[str, Tensor]]:
    """The network of a golden file with its weights, its layers by name, and the file's tensors."""
    metadata, tensors = load(path)
    parts: dict[str, Any] = {key: json.loads(metadata[key]) for key in ("layers", "manager", "cells")}
    linear = any(layer.get("layer_type") == "linear" for layer in parts["layers"])
    options = {} if linear else {"algorithm": algorithm}
    layers = published_layers(**parts, norm=metadata["norm"], **options)
    shapes = {tuple(layer.warehouse.cells.shape) for layer in layers.values()}
    assert shapes == {tuple(shape) for shape in json.loads(metadata["warehouses"]).values()}
    for name, layer in layers.items():
        given = parts["cells"][name]
        assert (layer.slot.first, layer.slot.blocks, layer.slot.own) == (
            given["start_cell"],
            given["mixtures"],
            given["local_cells"],
        )
    load_published_layers(layers, part(tensors, "state."))
    return nn.Sequential(*layers.values()).eval(), layers, tensors


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def named_gradients(layers: dict[str, KernelWarehouseLayer]) -> dict[str, Tensor]:
    """The gradients of a backward pass under the published keys."""
    got: dict[str, Tensor] = {}
    warehouses: list[nn.Module] = []
    for name, layer in layers.items():
        if layer.owns_warehouse:
            assert layer.warehouse.cells.grad is not None
            got[f"warehouse_manager.weights.{len(warehouses)}"] = layer.warehouse.cells.grad
            warehouses.append(layer.warehouse)
        for key, parameter in layer.named_parameters():
            if not key.startswith("warehouse."):
                assert parameter.grad is not None, key
                got[f"{name}.{key}"] = parameter.grad
    return got


def test_there_are_nine_cases() -> None:
    assert len(FILES) == 9


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_eval_outputs_kernels_and_attention(path: Path, algorithm: str) -> None:
    network, layers, tensors = build(path, algorithm)
    for temperature, ending in ((0.0, ""), (0.5, "_tau05"), (1.0, "_tau1")):
        set_temperature(network, temperature)
        x = tensors["input"]
        for name, layer in layers.items():
            stem = f"kernel_eval{ending}" if temperature < 1 else "kernel_tau1"
            want = tensors[f"{stem}.{name}"].reshape(layer.weight.shape)
            torch.testing.assert_close(layer.kernel(x)[0], want, **TOLERANCE["golden"])
            if temperature == 0:
                attention = layer.coefficients(x).attention[0]
                torch.testing.assert_close(attention, tensors[f"attention_eval.{name}"], **TOLERANCE["golden"])
            if temperature == 1:
                torch.testing.assert_close(layer.weight, want, **TOLERANCE["golden"])
            x = layer(x)
        if temperature < 1:
            torch.testing.assert_close(x, tensors[f"output_eval{ending}"], **TOLERANCE["golden"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_train_outputs_gradients_and_statistics(path: Path, algorithm: str, dtype: torch.dtype) -> None:
    network, layers, tensors = build(path, algorithm)
    network.to(dtype).train()
    x = tensors["input"].to(dtype).requires_grad_()
    output = network(x)
    torch.testing.assert_close(output.float(), tensors["output_train"], **TOLERANCE["golden"])
    output.backward(tensors["grad_output"].to(dtype))
    got = {"input": x.grad, **named_gradients(layers)}
    want = {"input": tensors["grad_input"]}
    for key, tensor in part(tensors, "grad.").items():
        name = next((name for name in layers if key.startswith(f"{name}.")), None)
        rest = key if name is None else our_name(key.removeprefix(f"{name}.").removeprefix("conv."))
        want[key if name is None else f"{name}.{rest}"] = tensor
    assert set(got) == set(want)
    for key, stored in want.items():
        torch.testing.assert_close(
            got[key].float(), stored, **TOLERANCE["golden"], msg=lambda text, key=key: f"{key}: {text}"
        )
    for key, stored in part(tensors, "after_train.").items():
        name = next(name for name in layers if key.startswith(f"{name}."))
        ours = our_name(key.removeprefix(f"{name}.").removeprefix("conv."))
        torch.testing.assert_close(layers[name].state_dict()[ours].float(), stored, **TOLERANCE["golden"])


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_train_at_temperature_one_half(path: Path) -> None:
    network, layers, tensors = build(path)
    set_temperature(network.train(), 0.5)
    x = tensors["input"].requires_grad_()
    output = network(x)
    torch.testing.assert_close(output, tensors["output_train_tau05"], **TOLERANCE["golden"])
    output.backward(tensors["grad_output"])
    torch.testing.assert_close(x.grad, tensors["grad_input_tau05"], **TOLERANCE["golden"])
    got = named_gradients(layers)
    for key, stored in part(tensors, "grad_tau05.").items():
        torch.testing.assert_close(got[key], stored, **TOLERANCE["golden"])


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_published_layer_owns_the_cells_that_it_reads(path: Path) -> None:
    metadata, tensors = load(path)
    _, layers, _ = build(path)
    state, x = part(tensors, "state."), tensors["input"]
    for name, ours in layers.items():
        layer = published_layer("kernel_warehouse", state, layer=name, **metadata).eval()
        assert layer.owns_warehouse
        assert torch.equal(layer.state_dict()["warehouse.cells"], ours.warehouse.cells)
        want = tensors[f"kernel_eval.{name}"].reshape(layer.weight.shape)
        torch.testing.assert_close(layer.kernel(x)[0], want, **TOLERANCE["golden"])
        set_temperature(ours, 0.0)
        x = ours(x)
    torch.testing.assert_close(x, tensors["output_eval"], **TOLERANCE["golden"])


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_layers_of_every_dimension_read_the_cells_of_their_number(dims: int) -> None:
    """Two warehouses with cells of one shape, of which the second layer reserved the first; names as in a ResNet."""
    common = {"in_planes": 4, "out_planes": 4, "kernel_size": 3, "padding": 1, "layer_type": f"conv{dims}d"}
    names = ["layer1.0.conv1", "0", "layer1.0.conv10"]
    arguments: dict[str, Any] = {
        "layers": [{"name": name, "bias": name == "0", **common} for name in names],
        "manager": {"cell_inplane_ratio": 0.5},
        "cells": {name: {"warehouse": number} for name, number in zip(names, (1, 0, 1), strict=True)},
        "norm": "BatchNorm1d",
    }
    torch.manual_seed(0)
    layers = published_layers(**arguments)
    assert {type(layer).__name__ for layer in layers.values()} == {f"KernelWarehouseConv{dims}d"}
    assert layers[names[0]].warehouse is layers[names[2]].warehouse is not layers["0"].warehouse
    state: dict[str, Tensor] = {}
    for name, layer in layers.items():
        number = arguments["cells"][name]["warehouse"]
        state[f"warehouse_manager.weights.{number}"] = layer.warehouse.cells.detach()
        own = {key: value for key, value in layer.state_dict().items() if not key.startswith(("warehouse", "temper"))}
        state |= {f"{name}.{published_name(key)}": value for key, value in own.items()}
    x = torch.randn(2, 4, *[5] * dims)
    texts = {key: json.dumps(value) if key != "norm" else value for key, value in arguments.items()}
    for name, layer in layers.items():
        built = published_layer("kernel_warehouse", state, layer=name, **texts).eval()
        assert torch.equal(built(x), layer.eval()(x))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"norm": "GroupNorm"}, "GroupNorm"),
        ({"manager": {"cell_inplane_ratio": 0.75}}, "0.75"),
        ({"manager": {"ratio": 1}}, "ratio"),
        ({"layers": [{"name": "a", "in_planes": 4}]}, "out_planes"),
        ({"layers": [{"name": "a", "in_planes": 4, "out_planes": 4, "layer_type": "conv4d"}]}, "conv4d"),
        ({"layers": [{"name": "a", "in_planes": 4, "out_planes": 4, "strides": 2}]}, "strides"),
        ({"cells": {}}, "'a'"),
        ({"state": {}}, "cells"),
        ({"state": {"warehouse_manager.weights.7": torch.zeros(1, 4, 4, 1, 1)}}, "weights.7"),
    ],
)
def test_arguments_that_the_published_code_does_not_have_are_refused(changed: dict[str, Any], named: str) -> None:
    given: dict[str, Any] = {
        "state": {"warehouse_manager.weights.0": torch.zeros(1, 4, 4, 1, 1)},
        "layers": [{"name": "a", "in_planes": 4, "out_planes": 4}],
        "manager": {},
        "cells": {"a": {"warehouse": 0}},
        "norm": "LayerNorm",
    } | changed
    with refuses(CheckpointError, named):
        published_layer("kernel_warehouse", **given)


def test_a_published_layer_needs_the_arguments_of_its_network() -> None:
    metadata, tensors = load(FILES[0])
    state = part(tensors, "state.")
    for wrong in ({"layer": "conv9"}, {"strides": 2}):
        with refuses(CheckpointError, next(iter(wrong))):
            published_layer("kernel_warehouse", state, **metadata, **wrong)
    with refuses(CheckpointError, "norm"):
        published_layer("kernel_warehouse", state, **{key: metadata[key] for key in ("layers", "manager", "cells")})


def test_unknown_names_are_refused() -> None:
    for key in ("attention.fc4.weight", "weight", "bn1.weight"):
        with refuses(ValueError, key):
            our_name(key)
