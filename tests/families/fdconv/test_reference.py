"""The reference of FDConv, against a case computed by hand, and the layer against the reference."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dynaconv.families import FDConvCoefficients
from dynaconv.families.fdconv.reference import (
    reference_bands,
    reference_fdconv,
    reference_fdconv_kernel,
    reference_low_pass,
)
from dynaconv.ops import Geometry
from dynaconv.testing.contract import value_and_gradients
from tests.families.cases import CASES
from tests.families.test_contract import ready
from tests.helpers import TOLERANCE

NAMES = [name for name, case in CASES.items() if case.family.name == "fdconv"]


def test_a_kernel_by_hand() -> None:
    # One 1x1 kernel [[1, 3]] has the mean 2 and the wave (-1, +1): spectrum (4, -2).
    spectra = torch.tensor([[[[4.0, 0.0], [-2.0, 0.0]]]])
    groups = torch.tensor([[0, 1]])
    coefficients = FDConvCoefficients(
        channel=torch.tensor([[1.0, 10.0]]), filter=torch.tensor([[2.0]]), kernel=torch.tensor([[1.5, 0.5]])
    )
    kernel = reference_fdconv_kernel(coefficients, None, spectra, groups, Geometry((1, 1)), 0)
    # 1.5 * 2 +- 0.5 * 1, times 2, times 1 and 10.
    torch.testing.assert_close(kernel.flatten(), torch.tensor([5.0, 70.0]))


def test_a_low_pass_by_hand() -> None:
    # Of four columns, the frequencies 0, 1/4 and 1/2 have the mask's columns 0, 11 and 22 of 32: 0.17 and 0.34 cycles.
    wave = torch.cos(torch.arange(4) * torch.pi / 2)
    x = 5 + wave.expand(1, 1, 4, 4) + torch.tensor([1.0, -1.0, 1.0, -1.0])
    torch.testing.assert_close(reference_low_pass(x, 2), 5 + wave.expand(1, 1, 4, 4))
    torch.testing.assert_close(reference_low_pass(x, 4), torch.full_like(x, 5))


def reference_output(layer: torch.nn.Module, x: Tensor) -> Tensor:
    """The layer's output by the reference, from the layer's coefficients and maps."""
    modulated = x
    if layer.bands is not None:
        modulated = reference_bands(x, layer.bands.band_maps(x), layer.bands.bands)
    padded = layer._padded(modulated)
    parts = (layer.coefficients(x), layer.local_gates(x), layer.spectra(), layer.frequency_group, layer.geometry)
    out = reference_fdconv(padded, *parts)
    return out if layer.bias is None else out + layer.bias[:, None, None]


@pytest.mark.parametrize("algorithm", ["kernel", "grouped"])
@pytest.mark.parametrize("name", NAMES)
def test_the_layer_is_the_reference_in_value_and_gradient(name: str, algorithm: str) -> None:
    layer = ready(name, algorithm=algorithm).train()
    x = torch.randn(3, layer.in_channels, 9, 7, dtype=torch.float64).requires_grad_()
    leaves = [x, *layer.parameters()]
    want = value_and_gradients(reference_output(layer, x), leaves)
    torch.testing.assert_close(value_and_gradients(layer(x), leaves), want, **TOLERANCE["float64"])


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 7), (13, 9), (14, 14), (56, 40), (83, 130), (1, 200)])
def test_low_passes_are_products_of_few_frequencies(size: tuple[int, int]) -> None:
    from dynaconv.families.fdconv.bands import low_passes

    x = torch.randn(2, 3, *size, dtype=torch.float64)
    for divisor, low in zip((2, 3, 8), low_passes(x, (2, 3, 8)), strict=True):
        torch.testing.assert_close(low, reference_low_pass(x, divisor), **TOLERANCE["float64"])


def test_masks_are_resized_as_torch_resizes() -> None:
    from dynaconv.families.fdconv.bands import mask_indices

    for length in range(1, 400):
        for source, half in ((64, False), (33, True)):
            wanted = F.interpolate(torch.arange(float(source))[None, None], size=length, mode="nearest")
            assert mask_indices(length, half) == wanted.flatten().long().tolist()
