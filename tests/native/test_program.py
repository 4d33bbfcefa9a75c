"""Native modules beyond their output values: kinds of input, state, copies, graphs, errors."""

import copy
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dynaconv import CondConv2d, DCDConv2d, DYConv2d, KernelWarehouseConv2d, ODConv2d, SEConv2d, deploy
from dynaconv.deployment.backends import PRECISIONS, Precision
from dynaconv.errors import ConversionError
from dynaconv.native import NativeProgram, instruction_set
from dynaconv.native.library import use_huge_pages
from dynaconv.native.steps import FIELDS
from tests.messages import refuses
from tests.native.programs import run_steps, with_fields
from tests.native.test_layers import randomise_heads

SETS = ("portable", "avx2", "avx512")


def network() -> nn.Module:
    parts = (
        nn.Conv2d(3, 24, 3, 2, 1),
        nn.ReLU6(),
        DCDConv2d(24, 40, 1),
        nn.ReLU(),
        nn.Conv2d(40, 40, 3, 1, 1, groups=40),
        DCDConv2d(40, 40, 3, 1, 1, groups=40),
    )
    return randomise_heads(nn.Sequential(*parts)).eval()


def network_of_mixtures() -> nn.Module:
    parts = (
        nn.Conv2d(3, 8, 1),
        ODConv2d(8, 8, 3, padding=1),
        nn.SiLU(),
        CondConv2d(8, 8, 3, padding=1, groups=8, num_experts=2, residual=True),
        SEConv2d(8, 8, 3, padding=1),
        nn.Hardswish(),
        DYConv2d(8, 5, 1, num_kernels=2),
    )
    return nn.Sequential(*parts).eval()


def network_of_cells_and_groups() -> nn.Module:
    parts = (
        nn.Conv2d(3, 24, 1),
        KernelWarehouseConv2d(24, 12, 3, padding=1, in_divisor=3, branch_norm="layer", temperature=0.3),
        KernelWarehouseConv2d(12, 12, 3, padding=1, groups=12),
        nn.ReLU(),
        nn.Conv2d(12, 24, 1, groups=4),
        ODConv2d(24, 6, 1, groups=2, num_kernels=2),
    )
    return nn.Sequential(*parts).eval()


class Reader(nn.Module):
    """Reads attributes of its layer in forward, as some networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = DCDConv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output; its slice and factor come from attributes of the layer."""
        out: Tensor = self.layer(x)
        return out[:, : self.layer.weight.shape[0]] * len(self.layer.branch.heads)


def native_network() -> tuple[NativeProgram, nn.Module]:
    torch_network = network()
    native = deploy(torch_network, backend="native")
    assert isinstance(native, NativeProgram)
    return native, torch_network


def assert_close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5, check_stride=False)


@pytest.mark.parametrize("floats", [0, 1, 1 << 20, (3 << 20) + 5])
def test_large_pages_keep_values(floats: int) -> None:
    """Memory smaller than a huge page, and memory of several that begins and ends inside one."""
    values = torch.arange(floats + 3, dtype=torch.float32)
    use_huge_pages(values[3:])
    assert torch.equal(values, torch.arange(floats + 3, dtype=torch.float32))


@torch.no_grad()
def test_any_memory_format() -> None:
    native, want = native_network()
    x = torch.randn(2, 3, 12, 20)
    inputs = [
        x,
        x.contiguous(memory_format=torch.channels_last),
        x[:, :, ::2, 1::3],
        x[:, :1].expand(2, 3, 12, 20),
        x.permute(0, 1, 3, 2),
        x.flip(3)[1:],
    ]
    native.original.forward = None
    for given in inputs:
        got = native(given)
        assert_close(got, want(given))
        assert got.is_contiguous(memory_format=torch.channels_last)


def test_what_the_kernels_do_not_take_runs_in_torch() -> None:
    native, want = native_network()
    x = torch.randn(2, 3, 8, 8)
    assert_close(native(x.requires_grad_()).sum(), want(x).sum())
    native(x).sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        native.double()
        assert_close(native(x.double()), want.double()(x.double()))
    native.float()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert native(x).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="channels"):
        native(torch.randn(2, 5, 8, 8))


@torch.no_grad()
def test_empty_batches_and_small_images() -> None:
    native, _ = native_network()
    assert native(torch.zeros(0, 3, 8, 8)).shape == (0, 40, 4, 4)
    valid = deploy(nn.Conv2d(3, 8, 5).eval(), backend="native")
    with refuses(RuntimeError):
        valid(torch.zeros(1, 3, 3, 9))


@torch.no_grad()
def test_nan_stays() -> None:
    native = deploy(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU6()).eval(), backend="native")
    assert native(torch.full((1, 4, 2, 2), torch.nan)).isnan().all()


@torch.no_grad()
def test_a_network_reads_its_layers_attributes() -> None:
    reader = Reader().eval()
    native, x = deploy(reader, backend="native"), torch.randn(2, 8, 9, 9)
    assert isinstance(native.layer, NativeProgram)
    with torch.no_grad():
        assert_close(native(x), reader(x))
    with pytest.raises(AttributeError, match="nothing"):
        _ = native.layer.nothing


def test_a_loaded_state_is_used() -> None:
    native, _ = native_network()
    other = deploy(network())
    x = torch.randn(1, 3, 8, 8)
    native.load_state_dict({f"original.{name}": value for name, value in other.state_dict().items()})
    assert_close(native(x), other(x))


@torch.no_grad()
def test_copies_and_pickles() -> None:
    native, _ = native_network()
    x = torch.randn(1, 3, 8, 8)
    file = io.BytesIO()
    torch.save(native, file)
    file.seek(0)
    for twin in (copy.deepcopy(native), torch.load(file, weights_only=False)):
        assert_close(twin(x), native(x))
        twin.original.forward = None
        assert twin(x).shape == (1, 40, 4, 4)


@torch.no_grad()
def test_the_operator_is_sound() -> None:
    native, _ = native_network()
    args = (torch.randn(2, 3, 9, 8), native.constants, native.steps, native._out_channels, native.sizes)
    torch.library.opcheck(torch.ops.dynaconv.native_program, args)


@torch.no_grad()
def test_exported_with_a_free_batch() -> None:
    native, want = native_network()
    free = {"x": {0: torch.export.Dim("batch")}}
    program = torch.export.export(native, (torch.randn(2, 3, 8, 8),), dynamic_shapes=free)
    assert "dynaconv.native_program" in str(program.graph)
    x = torch.randn(5, 3, 8, 8)
    assert_close(program.module()(x), want(x))


@pytest.mark.parametrize("model", [network, network_of_mixtures, network_of_cells_and_groups])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_damaged_programs_are_refused(model: Callable[[], nn.Module], precision: Precision) -> None:
    """No value of any field may crash: it raises an error, or the program computes something else."""
    native = deploy(model(), backend="native", precision=precision)
    assert isinstance(native, NativeProgram)
    x = torch.randn(1, 3, 6, 6)
    refused = 0
    for index in range(native.steps.numel()):
        for value in (-2, -1, 0, 1, 3, 10**7, 2**62):
            steps = native.steps.clone()
            steps[index] = value
            try:
                run_steps(native, x, steps)
            except RuntimeError:
                refused += 1
    assert refused > native.steps.numel()


@torch.no_grad()
def test_a_depthwise_branch_without_parts_is_refused() -> None:
    native, _ = native_network()
    with refuses(RuntimeError):
        run_steps(native, torch.randn(1, 3, 6, 6), with_fields(native, -1, {"latent": 0, "has_scale": 0}))


@pytest.mark.parametrize(
    ("model", "step", "fields"),
    [
        (network_of_mixtures, 1, {"kernels": 0}),
        (network_of_mixtures, 1, {"kernels": 400}),
        (network_of_mixtures, 1, {"latent": 2}),
        (network_of_mixtures, 1, {"static_kernel": 2}),
        (network_of_mixtures, 1, {"squeeze": -1}),
        (network_of_mixtures, 2, {"has_channel": 1}),
        (network_of_mixtures, 2, {"kernels": 1, "static_kernel": 0, "biases": -1}),
        (network_of_mixtures, 2, {"biases": 10**6}),
        (network_of_mixtures, 4, {"has_scale": 0}),
        (network_of_mixtures, 4, {"has_spatial": 1}),
        (network_of_mixtures, 4, {"dynamic": 0}),
        (network_of_mixtures, 4, {"kind": 3}),
        (network_of_cells_and_groups, 1, {"num_cells": 0}),
        (network_of_cells_and_groups, 1, {"num_cells": 2**19}),
        (network_of_cells_and_groups, 1, {"cells": 10**6}),
        (network_of_cells_and_groups, 1, {"cell_out": 5}),
        (network_of_cells_and_groups, 1, {"cell_in": 0}),
        (network_of_cells_and_groups, 1, {"cell_h": 2}),
        (network_of_cells_and_groups, 1, {"kernels": 2}),
        (network_of_cells_and_groups, 1, {"has_scale": 1}),
        (network_of_cells_and_groups, 1, {"blend": 10**6}),
        (network_of_cells_and_groups, 1, {"channel_scale": 10**6}),
        (network_of_cells_and_groups, 1, {"hidden_norm": 10**6}),
        (network_of_cells_and_groups, 1, {"groups": 5}),
        (network_of_cells_and_groups, 2, {"groups": 2}),
        (network_of_cells_and_groups, 2, {"squeeze": -1, "hidden": 12, "hidden_norm": 0}),
        (network_of_cells_and_groups, 3, {"groups": 0}),
        (network_of_cells_and_groups, 4, {"latent": 2}),
    ],
)
def test_a_damaged_step_is_refused(model: Callable[[], nn.Module], step: int, fields: dict[str, int]) -> None:
    native = deploy(model(), backend="native")
    with pytest.raises(RuntimeError, match="damaged"):
        run_steps(native, torch.randn(1, 3, 6, 6), with_fields(native, step, fields))


@torch.no_grad()
def test_what_lies_between_two_fused_steps_is_not_read() -> None:
    native, _ = native_network()
    steps = native.steps.clone()
    table = steps.view(-1, len(FIELDS))
    fused = table[:, FIELDS.index("fused")].nonzero().item()
    table[-1, FIELDS.index("source")] = table[fused, FIELDS.index("target")]
    # The target of the step reuses the slot.
    table[-1, FIELDS.index("target")] = table[fused, FIELDS.index("source")]
    with refuses(RuntimeError):
        run_steps(native, torch.randn(1, 3, 6, 6), steps)


def test_sizes_whose_product_overflows_are_refused() -> None:
    native = deploy(nn.Sequential(nn.Conv2d(16, 16, 1, bias=False)).eval(), backend="native")
    steps = with_fields(native, 0, dict.fromkeys(("out_channels", "kernel_h", "kernel_w"), 2**20))
    with refuses(RuntimeError):
        run_steps(native, torch.randn(1, 16, 2, 2), steps, out_channels=2**20)


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param(
            "test_dcd_par or fused or layer_norms or test_activations_of or (output_and_gradients and 3-)",
            id="few",
        ),
        pytest.param("", id="all", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", SETS)
def test_each_instruction_set(name: str, chosen: str) -> None:
    """Runs the tests of layers again in a process with DYNACONV_ISA set."""
    if SETS.index(name) > SETS.index(instruction_set()):
        pytest.skip(f"this processor has no {name}")
    names = ("layers", "mixtures", "excitation", "training", "warehouse", "graph")
    files = [str(Path(__file__).parent / f"test_{each}.py") for each in names]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, *files]
    done = subprocess.run(command, env=os.environ | {"DYNACONV_ISA": name}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def run_deploy(**environment: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import torch; from torch import nn; from dynaconv import DCDConv2d, deploy\n"
        "print(tuple(deploy(nn.Conv2d(3, 8, 3).eval(), backend='native')(torch.zeros(1, 3, 8, 8)).shape))"
    )
    environment = os.environ | environment
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["sse9", "avx512" if instruction_set() != "avx512" else "neon"])
def test_unknown_instruction_sets_are_errors(name: str) -> None:
    done = run_deploy(DYNACONV_ISA=name)
    assert "NativeError: DYNACONV_ISA" in done.stderr


def test_without_a_compiler_torch_runs(tmp_path: Path) -> None:
    done = run_deploy(DYNACONV_CACHE=str(tmp_path), PATH=str(tmp_path), CXX="")
    assert done.stdout.strip() == "(1, 8, 6, 6)"
    assert done.stderr.count("needs a C++ compiler") == 1


def test_unknown_backend() -> None:
    with refuses(ConversionError, "tpu"):
        deploy(nn.Conv2d(3, 8, 3), backend="tpu")
