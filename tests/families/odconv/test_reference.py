"""The reference against kernels worked out by hand, and the cost model against plain counts."""

import math

import torch

from dynaconv.families.odconv import ODConvCoefficients, odconv_attention, odconv_costs, reference_odconv_kernel
from dynaconv.ops import Geometry, cheapest

ONE = torch.ones(())


def logit(*probabilities: float) -> torch.Tensor:
    """Logits of one sample whose sigmoids are ``probabilities``."""
    return torch.tensor([[math.log(p / (1 - p)) for p in probabilities]])


def test_pointwise_kernel_by_hand() -> None:
    # The mix is [[0.75, 2.5], [3.25, 3]]; then rows by 1/2 and 1/4, columns by 1/4 and 1/2.
    kernels = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 4.0], [4.0, 0.0]]])[..., None, None]
    logits = ODConvCoefficients(logit(0.25, 0.5), logit(0.5, 0.25), None, torch.tensor([[math.log(3), 0.0]]))
    want = torch.tensor([[0.75 / 8, 2.5 / 4], [3.25 / 16, 3.0 / 8]])
    torch.testing.assert_close(reference_odconv_kernel(logits, kernels, ONE, Geometry((1, 1)), 0)[..., 0, 0], want)


def test_positions_by_hand() -> None:
    kernels = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])[None, None, None]
    spatial = logit(0.5, 0.25, 0.5, 0.75, 0.5, 0.5).reshape(1, 2, 3)
    logits = ODConvCoefficients(logit(0.5), None, spatial, None)
    want = torch.tensor([[0.25, 0.25, 0.75], [1.5, 1.25, 1.5]])
    torch.testing.assert_close(reference_odconv_kernel(logits, kernels, ONE, Geometry((2, 3)), 0)[0, 0], want)


def test_a_group_takes_the_attention_of_its_own_channels() -> None:
    kernels = torch.ones(1, 4, 2, 1, 1)
    logits = ODConvCoefficients(logit(0.5, 0.25, 0.75, 0.1))
    want = torch.tensor([[0.5, 0.25], [0.5, 0.25], [0.75, 0.1], [0.75, 0.1]])
    kernel = reference_odconv_kernel(logits, kernels, ONE, Geometry((1, 1), groups=2), 0)
    torch.testing.assert_close(kernel[..., 0, 0], want)


def test_temperature_divides_every_logit() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(shape, generator=generator) for shape in ((1, 2), (1, 3), (1, 3, 3), (1, 4))]
    kernels = torch.randn(4, 3, 2, 3, 3, generator=generator)
    hot = reference_odconv_kernel(ODConvCoefficients(*parts), kernels, torch.tensor(5.0), Geometry((3, 3)), 0)
    divided = ODConvCoefficients(*(part / 5 for part in parts))
    torch.testing.assert_close(hot, reference_odconv_kernel(divided, kernels, ONE, Geometry((3, 3)), 0))
    attention = odconv_attention(ODConvCoefficients(*parts), torch.tensor(5.0))
    torch.testing.assert_close(attention, odconv_attention(divided, ONE))
    assert all(part is not None and (part > 0).all() and (part < 1).all() for part in attention)
    torch.testing.assert_close(attention.kernel.sum(1), torch.ones(1))


def test_costs_count_multiply_adds() -> None:
    costs = odconv_costs(Geometry((3, 3), (2, 2), (1, 1)), (2, 8, 9, 7), 12, 4)
    pixels, weights = 2 * 5 * 4, 12 * 8 * 9
    assert costs["kernel"].multiply_adds == costs["grouped"].multiply_adds == pixels * weights + 2 * 4 * weights
    assert costs["mixed"].multiply_adds == 4 * pixels * weights + 4 * pixels * 12
    single = odconv_costs(Geometry((1, 1)), (2, 8, 9, 7), 12, 1)
    assert {cost.multiply_adds for cost in single.values()} == {2 * 9 * 7 * 12 * 8}


def test_one_pointwise_kernel_is_not_formed_for_many_samples() -> None:
    assert cheapest(odconv_costs(Geometry((1, 1)), (64, 256, 4, 4), 256, 1)) == "mixed"
