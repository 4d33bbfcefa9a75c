"""The reference against numbers worked out by hand."""

import math

import pytest
import torch

from dynaconv.families.dyconv import reference_dyconv, reference_dyconv_kernel
from dynaconv.ops import Geometry

LOGITS = torch.tensor([[0.0, math.log(3)], [math.log(4), 0.0]], dtype=torch.float64)
"""Softmax at temperature 1: (1/4, 3/4) and (4/5, 1/5); at temperature 1/2: (1/10, 9/10) and (16/17, 1/17)."""


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize(
    ("temperature", "want"), [(1.0, [[13.0, -1.0], [6.4, 5.6]]), (0.5, [[14.8, -2.8], [80 / 17, 124 / 17]])]
)
def test_kernel_by_hand(temperature: float, want: list[list[float]]) -> None:
    kernels = torch.tensor([[[4.0, 8.0]], [[16.0, -4.0]]], dtype=torch.float64).reshape(2, 1, 2, 1, 1)
    for sample in range(2):
        kernel = reference_dyconv_kernel(LOGITS, kernels, scalar(temperature), sample)
        torch.testing.assert_close(kernel.flatten(), torch.tensor(want[sample], dtype=torch.float64))


def test_weights_sum_to_one_for_large_logits_too() -> None:
    ones = torch.ones(3, 1, 1, 1, 1, dtype=torch.float64)
    logits = torch.tensor([[1e4, -1e4, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(reference_dyconv_kernel(logits, ones, scalar(1.0), 0).item(), 1.0)


def test_output_by_hand() -> None:
    # A 1x2 kernel over three pixels, stride 1; the bias is mixed with the same weights.
    kernels = torch.tensor([[4.0, 0.0], [0.0, 8.0]], dtype=torch.float64).reshape(2, 1, 1, 1, 2)
    biases = torch.tensor([[4.0], [0.0]], dtype=torch.float64)
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).reshape(1, 1, 1, 3)
    out = reference_dyconv(x, LOGITS[:1], kernels, biases, scalar(1.0), Geometry((1, 2)))
    # Kernel (1, 6), bias 1.
    torch.testing.assert_close(out.flatten(), torch.tensor([14.0, 21.0], dtype=torch.float64))
