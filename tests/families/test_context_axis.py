"""`context_axis`: kernels that differ along frequency or time, in mixtures."""

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv import (
    CondConv1d,
    CondConv2d,
    CondConv3d,
    CondConvTranspose2d,
    DYConv1d,
    DYConv2d,
    convert,
    deploy,
    freeze,
)
from dynaconv.errors import ConversionError
from dynaconv.measure.profile import profile
from dynaconv.testing.cases import enlarge
from dynaconv.testing.contract import value_and_gradients
from dynaconv.testing.tolerance import assert_close
from tests.messages import refuses

# torch warns, once, that it may copy the input for "same" padding with even kernels; that is one of the cases.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
CASES: dict[str, tuple[Any, tuple[int, ...], dict[str, Any]]] = {
    "frequency": (CondConv2d, (7, 5), {"context_axis": -2, "padding": 1}),
    "time": (DYConv2d, (7, 5), {"context_axis": -1, "padding": 1, "groups": 2, "num_kernels": 3}),
    "stride": (DYConv2d, (8, 7), {"context_axis": -2, "padding": 1, "stride": 2, "context_norm": "running"}),
    "valid": (CondConv2d, (8, 7), {"context_axis": -1, "dilation": 2, "bias": False, "residual": True}),
    "even": (CondConv2d, (6, 5), {"context_axis": -2, "kernel_size": (2, 4), "padding": "same", "residual": True}),
    "reflect": (DYConv2d, (6, 5), {"context_axis": -2, "padding": 2, "padding_mode": "reflect"}),
    "series": (DYConv1d, (9,), {"context_axis": -1, "padding": 1}),
    "sound": (CondConv1d, (9,), {"context_axis": -1, "kernel_size": 1, "context_norm": "layer"}),
    "volume": (CondConv3d, (4, 5, 6), {"context_axis": -2, "padding": 1}),
    "transposed": (CondConvTranspose2d, (4, 5), {"context_axis": -1, "stride": 2, "groups": 2}),
}
every_case = pytest.mark.parametrize("case", CASES)


def problem(case: str, batch: int = 3) -> tuple[Any, Tensor]:
    kind, sizes, options = CASES[case]
    layer = kind(6, 8, **{"kernel_size": 3, **options})
    enlarge(layer)
    return layer.double().eval(), torch.randn(batch, 6, *sizes, dtype=torch.float64)


def position_by_position(layer: Any, x: Tensor) -> Tensor:
    """Each position of the output along the axis by a convolution of its sample with its own kernel."""
    kernels, biases, axis = layer.kernel(x), layer.sample_bias(x), layer.context_axis
    static = layer.static_class()(
        6, 8, layer.kernel_size, layer.stride, layer.padding, bias=False, groups=layer.groups, dilation=layer.dilation,
        padding_mode=layer.padding_mode, dtype=x.dtype,
    )  # fmt: skip
    rows = []
    for b in range(len(x)):
        outs = []
        for s in range(kernels.shape[1]):
            out = torch.func.functional_call(static, {"weight": kernels[b, s]}, (x[b : b + 1],))
            out = out if biases is None else out + biases[b, s].reshape(-1, *[1] * layer.dims)
            outs.append(out.select(axis, s))
        rows.append(torch.stack(outs, axis))
    return torch.cat(rows)


@every_case
def test_each_position_has_its_own_kernel(case: str) -> None:
    layer, x = problem(case)
    x.requires_grad_()
    out = layer(x)
    assert layer.kernel(x).shape[:2] == (3, out.shape[layer.context_axis])
    leaves = [x, *layer.parameters()]
    assert_close(value_and_gradients(out, leaves), value_and_gradients(position_by_position(layer, x), leaves))
    kernels = layer.kernel(x)
    assert not torch.allclose(kernels[:, 0], kernels[:, -1])


@every_case
def test_the_coefficients_are_those_of_the_average_at_each_position(case: str) -> None:
    layer, x = problem(case)
    axis, length = layer.context_axis, layer(x).shape[layer.context_axis]
    others = tuple(range(2, x.dim()))
    pooled = x.movedim(axis, 2).flatten(3).mean(3) if len(others) > 1 else x
    want = F.adaptive_avg_pool1d(pooled, length)
    twin = type(layer)(6, 8, **{"kernel_size": 3, **CASES[case][2], "context_axis": None, "context_features": 6})
    twin.load_state_dict(layer.state_dict())
    twin.double().eval()
    for position in range(length):
        given = twin.coefficients(x, want[:, :, position]).attention
        assert_close(layer.coefficients(x).attention[:, position], given)


@every_case
def test_forms_copies_and_the_neutral_start_agree(case: str) -> None:
    layer, x = problem(case)
    form = layer.deployed()
    scale = torch.linspace(1, 2, 8, dtype=torch.float64)
    for other in (form, copy.deepcopy(layer), pickle.loads(pickle.dumps(form))):
        assert_close(other(x), layer(x))
    form.absorb_affine(scale, scale)
    along = (-1, *[1] * layer.dims)
    assert_close(form(x), (layer(x) + 1) * scale.reshape(along))
    static = layer.static_class()(6, 8, 3, dtype=torch.float64)
    start = type(layer).from_conv(static, context_axis=layer.context_axis)
    assert_close(start(x), static(x))
    assert_close(start.static_conv()(x), static(x))
    assert layer(x[:0]).shape == (0, *layer(x).shape[1:])
    assert layer.algorithms == ("mixed",)
    assert layer.algorithm_costs(tuple(x.shape)).keys() == {"mixed"}


@pytest.mark.parametrize("case", ["frequency", "stride", "series"])
def test_an_export_has_a_free_batch(case: str) -> None:
    layer, x = problem(case, 7)
    batch = torch.export.Dim("batch", min=1, max=64)
    for module in (layer, layer.deployed()):
        program = torch.export.export(module, (x[:3],), dynamic_shapes=({0: batch},)).module()
        for size in (1, 2, 7):
            assert_close(program(x[:size]), layer(x[:size]))


def test_a_mask_leaves_padded_time_out_of_the_kernels_along_frequency() -> None:
    layer, x = problem("frequency")
    mask = torch.ones(3, 7, 5, dtype=torch.bool)
    mask[1, :, 3:] = False
    assert_close(layer.kernel(x, mask=mask)[1], layer.kernel(x[1:2, :, :, :3])[0])
    assert_close(layer.kernel(x, mask=mask)[0], layer.kernel(x)[0])
    with refuses(ValueError, "mask"):
        problem("stride")[0](torch.randn(3, 6, 8, 7, dtype=torch.float64), mask=torch.ones(3, 8, 7))


def test_networks_are_converted_deployed_and_profiled() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8)).double().eval()
    x = torch.randn(2, 1, 9, 7, dtype=torch.float64)
    dynamic = convert(net, "dyconv", context_axis=-2)
    assert_close(dynamic(x), net(x))
    deployed = deploy(dynamic, example=x)
    assert_close(deployed(x), net(x))
    assert profile(dynamic, (1, 9, 7)).macs > 3 * profile(net, (1, 9, 7)).macs
    with refuses(ConversionError, "context_axis"):
        freeze(dynamic, "1", x)
    with refuses(ConversionError, "context_axis"):
        convert(net, "dyconv", context_axis=-2, context="block", include=["0", "1"])


def test_mistakes_are_refused() -> None:
    with refuses(ValueError, "context_axis"):
        CondConv2d(4, 4, 3, context_axis=1)
    with refuses(ValueError, "context_axis=-2"):
        CondConv1d(4, 4, 3, context_axis=-2)
    with refuses(ValueError, "context_features"):
        CondConv2d(4, 4, 3, context_axis=-1, context_features=3)
    with refuses(ValueError, "algorithm='kernel'"):
        CondConv2d(4, 4, 3, context_axis=-1, algorithm="kernel")
