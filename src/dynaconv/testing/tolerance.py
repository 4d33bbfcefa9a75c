"""The table of tolerances."""

from typing import Any

import torch
from torch import Tensor

from dynaconv.errors import check_type
from dynaconv.families.contract.checks import check_choice

TOLERANCE: dict[str, dict[str, float]] = {
    # A fast algorithm compared to its reference: the same arithmetic in another order.
    "float64": {"rtol": 1e-10, "atol": 1e-10},
    "float32": {"rtol": 1e-4, "atol": 1e-5},
    # Another library's layer with the same weights, in float32.
    "float32 twin": {"rtol": 1e-5, "atol": 1e-5},
    # bfloat16 has 8 significant bits, float16 has 11; sums have up to 100 terms.
    "bfloat16": {"rtol": 5e-2, "atol": 5e-2},
    "float16": {"rtol": 1e-2, "atol": 1e-2},
    # Stored float32 outputs of the published layers.
    "golden": {"rtol": 1e-4, "atol": 1e-5},
    # The published classifier normalises over three values. Two of its stored float32 gradients, of magnitudes up to 46
    # and 23, differ by up to 1.2e-4 from the gradients in float64.
    "golden ill-conditioned": {"rtol": 1e-4, "atol": 2e-4},
}
"""Arguments of `torch.testing.assert_close` by kind of comparison."""


def assert_close(got: Any, want: Any, tolerance: str = "float64", message: str | None = None) -> None:
    """Compare tensors, or collections of them, by a row of `TOLERANCE`.

    Raises:
        AssertionError: They differ by more than the tolerance.
    """
    check_choice("tolerance", tolerance, TOLERANCE)
    limits = TOLERANCE[tolerance]
    torch.testing.assert_close(got, want, rtol=limits["rtol"], atol=limits["atol"], msg=message)


def assert_close_to_scale(got: Tensor, want: Tensor, tolerance: str) -> None:
    """Compare after dividing by the largest magnitude of ``want``, for results of sums that cancel.

    Raises:
        AssertionError: They differ by more than the tolerance.
    """
    check_type("got", got, Tensor)
    check_type("want", want, Tensor)
    scale = want.abs().max().clamp(min=torch.finfo(want.dtype).tiny)
    assert_close(got / scale, want / scale, tolerance)
