"""The reference against numbers worked out by hand."""

import math

import torch

from dynaconv.families.condconv import reference_condconv, reference_condconv_kernel
from dynaconv.ops import Geometry

LOGITS = torch.tensor([[0.0, math.log(3)], [-math.log(3), 0.0]], dtype=torch.float64)
"""Sigmoids 1/2 and 3/4 for the first sample, 1/4 and 1/2 for the second."""


def test_kernel_by_hand() -> None:
    kernels = torch.tensor([[[4.0, 8.0]], [[16.0, -4.0]]], dtype=torch.float64).reshape(2, 1, 2, 1, 1)
    for sample, want in enumerate(([14.0, 1.0], [9.0, 0.0])):
        kernel = reference_condconv_kernel(LOGITS, kernels, sample)
        torch.testing.assert_close(kernel.flatten(), torch.tensor(want, dtype=torch.float64))


def test_weights_are_independent_and_need_not_sum_to_one() -> None:
    ones = torch.ones(2, 1, 1, 1, 1, dtype=torch.float64)
    both_on = torch.full((1, 2), 50.0, dtype=torch.float64)
    torch.testing.assert_close(reference_condconv_kernel(both_on, ones, 0).item(), 2.0)
    torch.testing.assert_close(reference_condconv_kernel(-both_on, ones, 0).item(), 0.0)


def test_output_by_hand() -> None:
    # A 1x2 kernel over three pixels, stride 1; the bias is mixed with the same weights.
    kernels = torch.tensor([[4.0, 0.0], [0.0, 8.0]], dtype=torch.float64).reshape(2, 1, 1, 1, 2)
    biases = torch.tensor([[4.0], [0.0]], dtype=torch.float64)
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).reshape(1, 1, 1, 3).repeat(2, 1, 1, 1)
    out = reference_condconv(x, LOGITS, kernels, biases, Geometry((1, 2)))
    # First sample: kernel (2, 6), bias 2; second: kernel (1, 4), bias 1.
    want = torch.tensor([[16.0, 24.0], [10.0, 15.0]], dtype=torch.float64)
    torch.testing.assert_close(out.flatten(1), want)
