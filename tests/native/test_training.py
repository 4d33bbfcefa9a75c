"""Compares training by compiled operators with the layers in float64, over random geometries and options."""

import copy
import random
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from dynaconv import CondConv2d, DCDConv2d, DYConv2d, KernelWarehouseConv2d, ODConv2d, SEConv2d
from dynaconv.families.contract.branch import BranchLinear
from dynaconv.families.dcd import compiled_step
from dynaconv.native import NativeError, accelerate_training, library
from dynaconv.native.toolchain import BuildError
from dynaconv.ops import averaged
from dynaconv.ops.mixture import compiled, compiled_patches, compiled_point
from dynaconv.testing import assert_close_to_scale

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.fixture(autouse=True)
def accelerated() -> Iterator[None]:
    assert accelerate_training()
    yield
    accelerate_training(False)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the compiled functions in the order in which they ran."""
    found: list[str] = []
    holders = {
        "mixture": compiled._CompiledMixture,
        "patches": compiled_patches._CompiledPatches,
        "point": compiled_point._CompiledPointMixture,
        "dcd": compiled_step._CompiledStep,
    }
    for name, holder in holders.items():
        plain = holder.apply

        def noted(*arguments: object, name: str = name, plain: Callable[..., Tensor] = plain) -> Tensor:
            found.append(name)
            return plain(*arguments)

        monkeypatch.setattr(holder, "apply", noted)
    return found


def channels_last(*sizes: int) -> Tensor:
    return torch.randn(sizes).contiguous(memory_format=torch.channels_last)


def moved(layer: nn.Module) -> nn.Module:
    """Give the branch weights that move the kernels far."""
    for module in layer.modules():
        if isinstance(module, BranchLinear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    return layer


def random_layer(draw: random.Random, family: str) -> nn.Module:
    size = (draw.choice([1, 2, 3, 5]), draw.choice([2, 3, 4]))
    geometry = {
        "stride": (draw.choice([1, 1, 2, 3]), draw.choice([1, 1, 2])),
        "padding": (draw.choice([0, 1, 2, 4]), draw.choice([0, 1, 3])),
        "dilation": (draw.choice([1, 1, 2]), draw.choice([1, 1, 3])),
        "bias": draw.random() < 0.5,
    }
    channels = draw.choice([1, 3, 8, 16, 21, 40]), draw.choice([4, 8, 13, 16, 24, 48])
    if family == "dcd":
        channels = draw.choice([8, 16, 24, 40]), draw.choice([8, 16, 24, 40])
        return moved(DCDConv2d(*channels, size, algorithm="factored", **geometry))
    kernels = draw.choice([1, 2, 4, 5, 9]) if family == "odconv" else draw.choice([2, 3, 4, 9])
    name = "num_experts" if family == "condconv" else "num_kernels"
    kind = {"condconv": CondConv2d, "dyconv": DYConv2d, "odconv": ODConv2d}[family]
    options = {} if family == "odconv" else {"residual": draw.random() < 0.3}
    return moved(kind(*channels, size, **geometry, **options, **{name: kernels}))


def gradients(layer: nn.Module, x: Tensor, weight: Tensor) -> list[Tensor]:
    """Return the output, and the gradients of the input, if it has one, and of the parameters."""
    out = layer(x)
    inputs = [each for each in (x, *layer.parameters()) if each.requires_grad]
    return [out, *torch.autograd.grad(out, inputs, weight.to(out.dtype).broadcast_to(out.shape))]


def check(layer: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        weight = torch.randn_like(copy.deepcopy(layer)(x))
    reference = copy.deepcopy(layer).double()
    expected = gradients(reference, x.detach().double().requires_grad_(x.requires_grad), weight)
    for found, exact in zip(gradients(layer, x, weight), expected, strict=True):
        assert found.dtype == torch.float32
        assert_close_to_scale(found.double(), exact, "float32")


@pytest.mark.parametrize("family", ["dcd", "condconv", "dyconv", "odconv"])
@pytest.mark.parametrize("seed", [*range(12), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(12, 150))])
def test_output_and_gradients(seed: int, family: str, runs: list[str]) -> None:
    draw = random.Random(seed)
    layer, layout = random_layer(draw, family), "channels_last" if family == "dcd" or seed % 2 else "contiguous"
    x = torch.randn(draw.choice([1, 2, 5, 11]), layer.in_channels, draw.randint(15, 30), draw.randint(15, 30))
    x = x.contiguous(memory_format=LAYOUTS[layout]).requires_grad_(draw.random() < 0.8)
    check(layer, x)
    assert runs == ["dcd" if family == "dcd" else "mixture"]


POINTS: dict[str, Callable[..., nn.Module]] = {
    "dcd, kernel": lambda *sizes, **options: DCDConv2d(*sizes, algorithm="kernel", **options),
    "dcd, factored": lambda *sizes, **options: DCDConv2d(*sizes, algorithm="factored", **options),
    "condconv": CondConv2d,
    "dyconv": lambda *sizes, **options: DYConv2d(*sizes, residual=True, **options),
    "odconv": ODConv2d,
    "odconv (1)": lambda *sizes, **options: ODConv2d(*sizes, num_kernels=1, **options),
}
"""Layers with 1x1 kernels."""


@pytest.mark.parametrize("kind", POINTS)
@pytest.mark.parametrize("channels", [(8, 24), (16, 8), (40, 56), (96, 16)], ids=str)
@pytest.mark.parametrize("for_x", [True, False])
def test_single_taps(kind: str, channels: tuple[int, int], for_x: bool, runs: list[str]) -> None:
    layer = moved(POINTS[kind](*channels, 1, bias=for_x))
    x = channels_last(5, channels[0], 7, 6).requires_grad_(for_x)
    check(layer, x)
    assert runs == ["dcd" if "dcd" in kind else "point"]


@pytest.mark.parametrize("kind", ["condconv", "odconv"])
@pytest.mark.parametrize("stride", [1, 2])
def test_single_taps_of_other_channels_and_strides(kind: str, stride: int, runs: list[str]) -> None:
    layer = moved(POINTS[kind](13, 7, 1, stride=stride))
    check(layer, torch.randn(11, 13, 5, 6, requires_grad=True))
    assert runs == ["point"]


@pytest.mark.parametrize("kind", [*POINTS, "dcd 3x3"])
def test_several_threads(kind: str) -> None:
    layer = moved(POINTS[kind](8, 16, 1) if kind in POINTS else DCDConv2d(8, 16, 3, padding=1))
    x = channels_last(7, 8, 9, 9).requires_grad_()
    weight = torch.randn(7, 16, 9, 9)
    alone = gradients(copy.deepcopy(layer), x, weight)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        first, second = (gradients(copy.deepcopy(layer), x, weight) for _ in range(2))
    finally:
        torch.set_num_threads(threads)
    for one, two, serial in zip(first, second, alone, strict=True):
        assert torch.equal(one, two)
        assert_close_to_scale(two, serial, "float32")


@pytest.mark.parametrize("kind", [*POINTS, "dcd 3x3", "dcd, layer norm", "odconv 3x3"])
def test_second_derivatives(kind: str, runs: list[str]) -> None:
    several = {
        "dcd 3x3": DCDConv2d(8, 8, 3, padding=1),
        "dcd, layer norm": DCDConv2d(8, 8, 3, padding=1, context_norm="layer"),
        "odconv 3x3": ODConv2d(8, 8, 3, padding=1, num_kernels=2),
    }
    layer = moved(several.get(kind) or POINTS[kind](8, 8, 1))
    x = channels_last(3, 8, 5, 5).requires_grad_()

    def second(layer: nn.Module, x: Tensor) -> list[Tensor]:
        inputs = (x, *layer.parameters())
        first = torch.autograd.grad(layer(x).square().sum(), inputs, create_graph=True)
        return list(torch.autograd.grad(sum(each.square().sum() for each in first), inputs))

    expected = second(copy.deepcopy(layer).double(), x.detach().double().requires_grad_())
    for found, exact in zip(second(layer, x), expected, strict=True):
        assert_close_to_scale(found.double(), exact, "float32")
    assert runs


@pytest.mark.parametrize("algorithm", ["kernel", "factored"])
@pytest.mark.parametrize("norm", ["batch", "layer", "running", None])
def test_context_norms_of_dcd(norm: str | None, algorithm: str, runs: list[str]) -> None:
    layer = moved(DCDConv2d(8, 8, 1, context_norm=norm, algorithm=algorithm))
    check(layer, channels_last(4, 8, 6, 6).requires_grad_())
    assert runs


def test_running_statistics_of_dcd() -> None:
    layer = moved(DCDConv2d(8, 8, 3, padding=1))
    reference = copy.deepcopy(layer).double()
    for batch in (2, 5):
        x = channels_last(batch, 8, 6, 7)
        layer(x), reference(x.double())
    for found, exact in zip(layer.context_norm.buffers(), reference.context_norm.buffers(), strict=True):
        assert_close_to_scale(found.double(), exact.double(), "float32")


@pytest.mark.parametrize("case", ["one sample", "eval", "context", "two cells"])
def test_contexts_that_the_operators_of_dcd_do_not_compute(case: str, runs: list[str]) -> None:
    options = {"context": {"context_features": 5}, "two cells": {"context_size": 2}}.get(case, {})
    layer = moved(DCDConv2d(8, 8, 3, padding=1, algorithm="factored", **options)).train(case != "eval")
    x = channels_last(1 if case == "one sample" else 3, 8, 6, 6)
    given = (torch.randn(len(x), 5),) if case == "context" else ()
    reference = copy.deepcopy(layer).double()
    assert_close_to_scale(
        layer(x, *given).double(), reference(x.double(), *(each.double() for each in given)), "float32"
    )
    assert runs == ["dcd"]


@pytest.mark.parametrize("sizes", [(3, 1, 1), (3, 1, 5), (3, 5, 1), (1, 2, 2), (2, 3, 3)], ids=str)
@pytest.mark.parametrize("family", ["dcd", "odconv", "dcd, kernel", "dcd, factored", "condconv"])
def test_images_of_few_pixels(family: str, sizes: tuple[int, int, int], runs: list[str]) -> None:
    layers = {"dcd": DCDConv2d(8, 8, 3, padding=1, algorithm="factored"), "odconv": ODConv2d(8, 8, 3, padding=1)}
    layer = moved(layers.get(family) or POINTS[family](16, 8, 1))
    batch, *pixels = sizes
    x = channels_last(batch, layer.in_channels, *pixels)
    check(layer, x.requires_grad_())


@pytest.mark.parametrize("seed", range(16))
def test_patches_of_few_pixels(seed: int, runs: list[str]) -> None:
    draw = random.Random(seed)
    family, inputs = draw.choice(["condconv", "dyconv", "odconv", "odconv"]), draw.choice([1, 3, 8, 21])
    number = draw.choice([1, 2]) if family == "odconv" else 2
    kind = {"condconv": CondConv2d, "dyconv": DYConv2d, "odconv": ODConv2d}[family]
    geometry = {
        "stride": draw.choice([1, 2, (2, 1)]),
        "padding": draw.choice([0, 1, (2, 0)]),
        "dilation": (1, draw.choice([1, 2])),
    }
    name = "num_experts" if family == "condconv" else "num_kernels"
    layer = moved(
        kind(
            inputs,
            draw.choice([96, 101]),
            (3, draw.choice([1, 2])),
            bias=draw.random() < 0.5,
            **geometry,
            **{name: number},
        )
    )
    x = channels_last(draw.choice([1, 2, 5]), inputs, draw.choice([3, 4]), draw.choice([3, 5]))
    check(layer, x.requires_grad_(draw.random() < 0.8))
    assert runs == ["patches"]


@pytest.mark.parametrize("kind", ["condconv", "odconv", "odconv (1)"])
@pytest.mark.parametrize("chunk", [1, 5000, 2**23])
@pytest.mark.parametrize("size", [3, 9])
def test_patches_of_large_kernels(
    kind: str, chunk: int, size: int, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_MAX_BYTES", 0)
    monkeypatch.setattr(compiled_patches, "_CHUNK", chunk)
    monkeypatch.setattr(compiled_patches, "_SHARED_PIXELS", 12)
    layers = {
        "condconv": CondConv2d(8, 24, 3, padding=1),
        "odconv": ODConv2d(8, 24, 3, padding=1, stride=2, num_kernels=2),
        "odconv (1)": ODConv2d(8, 24, (3, 1), dilation=2, padding=2, num_kernels=1),
    }
    check(moved(layers[kind]), channels_last(5, 8, size, size).requires_grad_())
    assert runs == ["patches"]


@pytest.mark.parametrize(
    "change", [nn.functional.relu_, lambda out: out.add_(1), lambda out: out.mul_(out.detach() > 0)]
)
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    "kind", [*POINTS, "dcd 3x3", "dcd 3x3, joined", "dcd 3x3, factored", "odconv 3x3", "few pixels", "warehouse"]
)
def test_outputs_may_be_changed_in_place(kind: str, compiled: bool, change: Callable[[Tensor], Tensor]) -> None:
    accelerate_training(compiled)
    several = {
        "dcd 3x3": DCDConv2d(8, 16, 3, padding=1, bias=False),
        "dcd 3x3, joined": DCDConv2d(8, 8, 3, padding=1, bias=False),
        "dcd 3x3, factored": DCDConv2d(8, 8, 3, padding=1, bias=False, algorithm="factored"),
        "odconv 3x3": ODConv2d(8, 8, 3, padding=1, bias=False),
        "few pixels": ODConv2d(8, 128, 3, padding=1, bias=False, num_kernels=1),
        "warehouse": KernelWarehouseConv2d(16, 16, 3, padding=1, bias=False),
    }
    layer = moved(several.get(kind) or POINTS[kind](8, 16, 1, bias=False))
    x = channels_last(3, layer.in_channels, 5, 6).requires_grad_()
    check(nn.Sequential(layer, Changed(change)), x)


class Changed(nn.Module):
    """Changes its input in place."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(x)


class Residual(nn.Module):
    """A layer whose input has another gradient too."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x) + x
        return out


AVERAGING: dict[str, Callable[[], nn.Module]] = {
    "mixture": lambda: DYConv2d(16, 16, 3, padding=1),
    "depthwise": lambda: DYConv2d(16, 16, 3, padding=1, groups=16),
    "mixed": lambda: CondConv2d(16, 16, 3, padding=1, algorithm="mixed"),
    "reflected": lambda: DYConv2d(16, 16, 3, padding=1, padding_mode="reflect"),
    "odconv": lambda: ODConv2d(16, 16, 1),
    "warehouse": lambda: KernelWarehouseConv2d(16, 16, 3, padding=1),
}


@pytest.mark.parametrize("kind", AVERAGING)
def test_averaged_inputs(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    plain = averaged._Averaged.apply
    monkeypatch.setattr(averaged._Averaged, "apply", lambda x: (runs.append(x), plain(x))[1])
    check(Residual(moved(AVERAGING[kind]())), channels_last(3, 16, 7, 9).requires_grad_())
    assert len(runs) == 1


def test_second_derivatives_of_averages() -> None:
    x = channels_last(2, 8, 3, 5).double().requires_grad_()

    def run(x: Tensor) -> Tensor:
        same, average = averaged.averaged(x.float())
        return (same.double() ** 2).sum() + (average.double() ** 3).sum()

    def reference(x: Tensor) -> Tensor:
        return (x**2).sum() + (x.mean((2, 3)) ** 3).sum()

    found, exact = (torch.autograd.functional.hvp(each, x, torch.ones_like(x))[1] for each in (run, reference))
    assert_close_to_scale(found, exact, "float32")


def test_zero_factors_of_dcd_have_finite_gradients() -> None:
    layer = DCDConv2d(8, 8, 3, padding=1)
    nn.init.zeros_(layer.p)
    check(layer, channels_last(4, 8, 6, 6).requires_grad_())


def test_shared_contexts(runs: list[str]) -> None:
    layer = moved(DYConv2d(4, 8, 3, context_features=5))
    context, reference = torch.randn(3, 5), copy.deepcopy(layer).double()
    x = torch.randn(3, 4, 8, 8)
    assert_close_to_scale(layer(x, context).double(), reference(x.double(), context.double()), "float32")
    assert runs == ["mixture"]


def jvp(layer: nn.Module, x: Tensor) -> None:
    with forward_ad.dual_level():
        layer(forward_ad.make_dual(x, torch.ones_like(x)))


def autocast(layer: nn.Module, x: Tensor) -> None:
    with torch.autocast("cpu"):
        layer(x)


def without_gradients(layer: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        layer(x)


PLAIN: dict[str, tuple[nn.Module, Callable[[nn.Module, Tensor], object]]] = {
    "no gradients": (DYConv2d(8, 8, 3), without_gradients),
    "forward mode": (DYConv2d(8, 8, 3), jvp),
    "autocast": (DYConv2d(8, 8, 3), autocast),
    "vmap": (DYConv2d(8, 8, 3), lambda layer, x: torch.vmap(layer)(x[None])),
    "dcd, vmap": (DCDConv2d(8, 8, 3).eval(), lambda layer, x: torch.vmap(layer)(x[None])),
    "export": (DYConv2d(8, 8, 3).eval(), lambda layer, x: torch.export.export(layer, (x,))),
    "float64": (DYConv2d(8, 8, 3).double(), lambda layer, x: layer(x.double())),
    "empty batch": (DYConv2d(8, 8, 3), lambda layer, x: layer(x[:0])),
    "algorithm": (DYConv2d(8, 8, 3, algorithm="mixed"), lambda layer, x: layer(x)),
    "padded tap": (DYConv2d(8, 8, 1, padding=1), lambda layer, x: layer(x)),
    "large kernels": (DYConv2d(8, 8, 41, padding=20), lambda layer, x: layer(x.contiguous())),
    "depthwise": (DYConv2d(8, 8, 3, groups=8), lambda layer, x: layer(x)),
    "dcd, contiguous": (DCDConv2d(8, 8, 3), lambda layer, x: layer(x.contiguous())),
    "dcd, 12 channels": (DCDConv2d(8, 12, 3), lambda layer, x: layer(x)),
    "dcd, 6 input channels": (DCDConv2d(6, 8, 3), lambda layer, x: layer(channels_last(2, 6, 6, 6))),
    "dcd, strided kernels": (DCDConv2d(8, 8, 1, stride=2, algorithm="kernel"), lambda layer, x: layer(x)),
    "dcd, another branch": (DCDConv2d(8, 8, 3, weight_norm=False), lambda layer, x: layer(x)),
    "dcd, few features": (DCDConv2d(3, 8, 3), lambda layer, x: layer(x[:, :3])),
    "dcd, blocks": (DCDConv2d(8, 8, 3, blocks=2), lambda layer, x: layer(x)),
    "se": (SEConv2d(8, 8, 3), lambda layer, x: layer(x)),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("case", PLAIN)
def test_cases_that_run_as_before(case: str, runs: list[str]) -> None:
    layer, run = PLAIN[case]
    x = channels_last(2, 8, 6, 6).requires_grad_()
    run(layer, x)
    assert not runs


def test_it_can_be_switched_off(runs: list[str]) -> None:
    assert not accelerate_training(False)
    DYConv2d(8, 8, 3)(torch.randn(2, 8, 6, 6))
    assert not runs


def test_without_a_compiler_a_warning_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise BuildError("the native backend needs a C++ compiler; install g++ or clang++.")

    monkeypatch.setattr(library, "_load", fails)
    library._reason.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="C\\+\\+ compiler.*; layers train in torch instead"):
            assert not accelerate_training()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not accelerate_training(False)
    finally:
        library._reason.cache_clear()


def test_an_unknown_instruction_set_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise NativeError("DYNACONV_ISA must be 'avx512', 'avx2' or 'portable'; got 'sse9'.")

    monkeypatch.setattr(library, "_load", fails)
    library._reason.cache_clear()
    try:
        with pytest.raises(NativeError, match="DYNACONV_ISA"):
            accelerate_training()
    finally:
        library._reason.cache_clear()
