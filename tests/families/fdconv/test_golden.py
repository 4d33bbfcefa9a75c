"""The published FDConv layers' stored outputs, kernels and gradients, and the names of their tensors."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from dynaconv import load_published, published_layer
from dynaconv.errors import CheckpointError
from dynaconv.families import FDConv2d
from dynaconv.families.fdconv.published import published_fdconv_options, published_fdconv_state
from tests.families.fdconv.golden import FILES, arguments, build, load, part, published_state
from tests.helpers import TOLERANCE
from tests.messages import refuses, spelled

cases = pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
algorithms = pytest.mark.parametrize("algorithm", ["kernel", "grouped"])


def test_there_are_seven_cases() -> None:
    assert len(FILES) == 7


@cases
def test_frequencies_have_the_published_groups(path: Path) -> None:
    metadata, tensors = load(path)
    with torch.device("meta"):
        layer = FDConv2d(**arguments(metadata)).to_empty(device="cpu")
    layer.reset_parameters()
    assert torch.equal(layer.frequency_group, tensors["group"])


@algorithms
@cases
def test_eval_output_kernel_and_modulated_input(path: Path, algorithm: str) -> None:
    metadata, tensors = load(path)
    layer, x = build(metadata, tensors, algorithm=algorithm).eval(), tensors["input"]
    for form in (layer, layer.deployed()):
        torch.testing.assert_close(form(x), tensors["output_eval"], **TOLERANCE["golden"])
        torch.testing.assert_close(form.kernel(x), tensors["kernel_eval"], **TOLERANCE["golden"])
        torch.testing.assert_close(form.modulate(x), tensors.get("modulated_eval", x), **TOLERANCE["golden"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@algorithms
@cases
def test_train_output_and_gradients(path: Path, algorithm: str, dtype: torch.dtype) -> None:
    metadata, tensors = load(path)
    layer = build(metadata, tensors, algorithm=algorithm).to(dtype).train()
    x = tensors["input"].to(dtype, copy=True).requires_grad_()
    output = layer(x)
    torch.testing.assert_close(output.float(), tensors["output_train"], **TOLERANCE["golden"])
    output.backward(tensors["grad_output"].to(dtype))
    want = {"input": tensors["grad_input"], **part(tensors, "grad.")}
    got = {"input": x.grad} | {key: parameter.grad for key, parameter in layer.named_parameters()}
    assert set(got) == set(want)
    for key, stored in want.items():
        mine = got[key]
        assert mine is not None, key
        limit = TOLERANCE["golden"]["atol"] * float(stored.abs().max())
        torch.testing.assert_close(
            mine.float(), stored, rtol=1e-4, atol=limit, msg=lambda text, key=key: f"{key}: {text}"
        )


@cases
def test_a_published_layer_is_built_from_its_state_and_arguments(path: Path) -> None:
    metadata, tensors = load(path)
    layer = published_layer("fdconv", published_state(tensors), **metadata).eval()
    torch.testing.assert_close(layer(tensors["input"]), tensors["output_eval"], **TOLERANCE["golden"])
    # What the state shows may be left out.
    shown = ("in_channels", "out_channels", "kernel_size", "bias", "kernel_num", "param_ratio", "convert_param")
    rest = {name: value for name, value in metadata.items() if name not in (*shown, "use_ksm_local")}
    again = published_layer("fdconv", published_state(tensors), **rest).eval()
    assert again.config == layer.config


@pytest.mark.parametrize(
    "wrong",
    [{"kernel_num": 8}, {"in_channels": 25}, {"reduction": 1.0}, {"strides": 2}, {"fbm_cfg": {"k_list": [2, 4]}}],
    ids=spelled,
)
def test_arguments_that_contradict_the_state_are_refused(wrong: dict[str, object]) -> None:
    _, tensors = load(next(path for path in FILES if path.stem == "fdconv_3x3_k4"))
    with refuses(CheckpointError):
        published_layer("fdconv", published_state(tensors), padding=1, **wrong)


@cases
def test_a_published_network_loads(path: Path) -> None:
    metadata, tensors = load(path)
    network = nn.Sequential(OrderedDict(conv2=FDConv2d(**arguments(metadata)))).eval()
    state = {k.replace("state.", "conv2.", 1): t for k, t in tensors.items() if k.startswith("state.")}
    report = load_published(network, state)
    assert (report.kind, report.missing, report.unexpected) == ("FDConv", (), ())
    assert report.kept == ("conv2.frequency_group",)
    torch.testing.assert_close(network(tensors["input"]), tensors["output_eval"], **TOLERANCE["golden"])


def test_a_published_network_of_another_size_is_refused_with_advice() -> None:
    _, tensors = load(FILES[0])
    state = {k.replace("state.", "conv2.", 1): t for k, t in tensors.items() if k.startswith("state.")}
    other = nn.Sequential(OrderedDict(conv2=FDConv2d(64, 32, 1, num_kernels=4)))
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with refuses(CheckpointError, "num_kernels", "16"):
        load_published(other, state)
    static = nn.Sequential(OrderedDict(conv2=nn.Conv2d(64, 32, 1)))
    with refuses(CheckpointError, "FDConv"):
        load_published(static, state)
    assert all(torch.equal(before[key], value) for key, value in other.state_dict().items())


def test_unknown_names_and_arguments_are_refused() -> None:
    for key in ("KSM_Global.fc3.weight", "conv.weight", "FBM.mask"):
        with refuses(ValueError, key):
            published_fdconv_state({key: torch.zeros(3)})
    with refuses(ValueError, "param_reduction"):
        published_fdconv_options({"param_reduction": 0.5}, 32)
    assert published_fdconv_options({"kernel_num": None}, 32)["num_kernels"] == 16
    assert published_fdconv_options({"kernel_num": None}, 32)["temperature"] == 4.0
