"""The reference against numbers worked out by hand."""

import torch

from dynaconv.families.se import ExciteWeights, reference_squeeze_excite, reference_squeeze_excite_kernel
from dynaconv.ops import Geometry


def test_kernel_by_hand() -> None:
    # y = (3, -1) * pixels + (0, 1): pixels 1 and 3 give averages 6 and -1. The hidden unit is relu(6 - 1 - 2) = 3,
    # the logits are 3 log 2 - log 2 = log 4 and 0, the scales 4/5 and 1/2.
    weight = torch.tensor([3.0, -1.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    bias = torch.tensor([0.0, 1.0], dtype=torch.float64)
    log2 = torch.log(torch.tensor(2.0, dtype=torch.float64))
    excite = ExciteWeights(
        squeeze=torch.ones(1, 2, dtype=torch.float64),
        squeeze_bias=torch.tensor([-2.0], dtype=torch.float64),
        expand=torch.stack((log2, 0 * log2))[:, None],
        expand_bias=torch.stack((-log2, 0 * log2)),
    )
    x = torch.tensor([1.0, 3.0], dtype=torch.float64).reshape(1, 1, 1, 2)
    kernel, scaled_bias = reference_squeeze_excite_kernel(x[0], weight, bias, excite, Geometry((1, 1)))
    torch.testing.assert_close(kernel.flatten(), torch.tensor([2.4, -0.5], dtype=torch.float64))
    assert scaled_bias is not None
    torch.testing.assert_close(scaled_bias, torch.tensor([0.0, 0.5], dtype=torch.float64))
    out = reference_squeeze_excite(x, weight, bias, excite, Geometry((1, 1)))
    torch.testing.assert_close(out.flatten(1), torch.tensor([[2.4, 7.2, 0.0, -1.0]], dtype=torch.float64))


def test_negative_hidden_units_are_off() -> None:
    ones, zeros = torch.ones(1, 1), torch.zeros(1)
    excite = ExciteWeights(ones, zeros - 5, 100 * ones, zeros)
    kernel, _ = reference_squeeze_excite_kernel(
        torch.ones(1, 2, 2), torch.ones(1, 1, 1, 1), None, excite, Geometry((1, 1))
    )
    assert kernel.item() == 0.5
