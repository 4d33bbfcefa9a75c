"""A layer's values and gradients do not depend on how its input, its gradient and its weights lie in memory."""

import copy
import itertools
import random
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from dynaconv.families import DynamicConv2d
from dynaconv.families.contract.norms import LatentBatchNorm2d
from tests.families.cases import CASES, IN_CHANNELS, algorithms, make, randomise_norms
from tests.helpers import TOLERANCE
from tests.layouts import LAYOUTS

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
MODES = ("train", "eval", "inference")
WEIGHTS = ("usual", "channels_last", "transposed")


class Combination(NamedTuple):
    """One way to call a layer."""

    case: str
    algorithm: str
    channels: int
    batch: int
    size: tuple[int, int]
    weights: str
    mode: str
    dtype: torch.dtype
    layout: str
    gradient: str


def combinations() -> Iterator[Combination]:
    """Every layout of the input with every case, algorithm and mode; the other choices take turns."""
    gradients = itertools.cycle(LAYOUTS)
    weights_and_types = itertools.cycle(itertools.product(WEIGHTS, (torch.float64, torch.float32)))
    for case in CASES:
        arguments = CASES[case].all_arguments
        # One channel cannot be divided, and a layer norm of one feature is refused.
        one = {"groups", "blocks", "band_groups"}.isdisjoint(arguments) and arguments.get("context_norm") != "layer"
        for algorithm, channels in itertools.product(algorithms(case), (IN_CHANNELS, 1) if one else (IN_CHANNELS,)):
            sizes = [(3, (5, 5)), (1, (6, 7))] + [(2, (1, 1))] * (CASES[case].all_arguments["kernel_size"] == 1)
            for (batch, size), mode, layout in itertools.product(sizes, MODES, LAYOUTS):
                if (
                    CASES[case].all_arguments.get("norm")
                    and mode == "train"
                    and (algorithm == "kernel" or batch * size[0] < 9)
                ):
                    continue  # There is no kernel; and norms over few pixels amplify the rounding.
                weights, dtype = next(weights_and_types)
                yield Combination(case, algorithm, channels, batch, size, weights, mode, dtype, layout, next(gradients))


def with_weights(layer: DynamicConv2d, how: str) -> DynamicConv2d:
    """A copy whose parameters lie in memory in another order."""
    layer = copy.deepcopy(layer)
    if how == "channels_last":
        return layer.to(memory_format=torch.channels_last)
    if how == "transposed":
        for parameter in layer.parameters():
            order = tuple(reversed(range(parameter.dim())))
            parameter.data = parameter.data.permute(order).contiguous().permute(order)
    return layer


def results(layer: DynamicConv2d, leaf: Tensor, x: Tensor, upstream: Tensor, mode: str) -> tuple[Tensor, ...]:
    """The output and, but for inference, the gradients of the input and of every parameter."""
    layer.train(mode == "train")
    if mode == "inference":
        with torch.inference_mode():
            return (layer(x),)
    out = layer(x)
    return (out.detach(), *torch.autograd.grad(out, [leaf, *layer.parameters()], upstream))


def differs(combination: Combination, layer: DynamicConv2d) -> str | None:
    """How the results differ from those of contiguous tensors in float64; None where they agree.

    Gradients cancel in places: the tolerance is relative to the largest gradient, and the error may be ten times that
    of contiguous tensors of the same type.
    """
    _, _, channels, batch, size, weights, mode, dtype, layout, gradient = combination
    equal_samples = layout.startswith("expanded-0") and batch > 1
    if equal_samples and mode == "train" and isinstance(layer.context_norm, LatentBatchNorm2d):
        # The norm divides the deviations of equal contexts, which are rounding errors, by the root of its epsilon.
        return None
    if layout in ("expanded-1", "expanded-0123") and isinstance(layer.context_norm, torch.nn.LayerNorm):
        # A layer norm does the same with equal channels, by up to 300; in float64 the tolerance has room for that.
        dtype = torch.float64
    values = torch.randn(batch, channels, *size, dtype=dtype)
    upstream = torch.randn_like(copy.deepcopy(layer)(values.double()), dtype=dtype)

    def contiguous(dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaf = values.to(dtype, copy=True).requires_grad_()
        x, gradients = (
            LAYOUTS[how](tensor).clone(memory_format=torch.contiguous_format)
            for how, tensor in ((layout, leaf), (gradient, upstream.to(dtype)))
        )
        return results(copy.deepcopy(layer).to(dtype), leaf, x, gradients, mode)

    leaf = values.clone().requires_grad_()
    got = results(
        with_weights(layer, weights).to(dtype), leaf, LAYOUTS[layout](leaf), LAYOUTS[gradient](upstream), mode
    )
    want = contiguous(torch.float64)
    largest = max(float(part.abs().max()) for part in want)
    for number, (one, usual, exact) in enumerate(zip(got, contiguous(dtype), want, strict=True)):
        allowed = TOLERANCE[str(dtype)[6:]]["rtol"] * largest + 10 * float((usual - exact).abs().max())
        error = float((one - exact).abs().max())
        if not error <= allowed:
            return f"{combination}: result {number} differs by {error:.1e}, and {allowed:.1e} is allowed"
    return None


def failures(chosen: list[Combination]) -> list[str]:
    layers: dict[tuple[str, str, int], DynamicConv2d] = {}
    found = []
    for combination in chosen:
        key = combination[:3]
        if key not in layers:
            torch.manual_seed(0)
            case, algorithm, channels = key
            layers[key] = make(case, dtype=torch.float64, algorithm=algorithm, in_channels=channels).eval()
            randomise_norms(layers[key])
        how = differs(combination, layers[key])
        found += [] if how is None else [how]
    return found


def test_layouts_make_no_difference() -> None:
    chosen = random.Random(0).sample(list(combinations()), 3000)
    assert failures(chosen) == []


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_no_layout_makes_a_difference(case: str) -> None:
    assert failures([combination for combination in combinations() if combination.case == case]) == []
