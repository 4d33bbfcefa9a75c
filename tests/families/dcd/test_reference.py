"""The reference against kernels worked out by hand."""

import torch

from dynaconv.families.dcd import (
    DCDFactors,
    fold_latent_norms,
    reference_dcd,
    reference_dcd_kernel,
    reference_normalised_dcd,
)
from dynaconv.ops import Geometry
from tests.helpers import TOLERANCE, seeded_tensors


def test_pointwise_kernel_by_hand() -> None:
    # Lambda W0 = diag(2, 3) [[1, 2], [3, 4]]; P Phi Q^T = (1, -1)^T 5 (10, 1).
    factors = DCDFactors(
        "channel",
        weight=torch.tensor([[1.0, 2.0], [3.0, 4.0]])[:, :, None, None],
        scale=torch.tensor([[2.0, 3.0]]),
        fusion=torch.tensor([[[[5.0]]]]),
        p=torch.tensor([[1.0], [-1.0]]),
        q=torch.tensor([[10.0], [1.0]]),
    )
    want = torch.tensor([[2.0 + 50, 4 + 5], [9 - 50, 12 - 5]])
    assert torch.equal(reference_dcd_kernel(factors, Geometry((1, 1)), 0)[:, :, 0, 0], want)


def test_phi_is_read_from_rows_of_p_to_columns_of_q() -> None:
    phi = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    eye = torch.eye(2)
    factors = DCDFactors("channel", torch.zeros(2, 2, 1, 1), None, phi[None, None], eye, eye)
    # Channel out 0 reads channel in 1.
    assert torch.equal(reference_dcd_kernel(factors, Geometry((1, 1)), 0)[:, :, 0, 0], phi)


def test_sparse_residual_is_block_diagonal() -> None:
    p, q = torch.ones(4, 1), torch.ones(4, 1)
    factors = DCDFactors("channel", torch.zeros(4, 4, 1, 1), None, torch.tensor([[[[2.0]], [[3.0]]]]), p, q)
    want = torch.block_diag(2 * torch.ones(2, 2), 3 * torch.ones(2, 2))
    assert torch.equal(reference_dcd_kernel(factors, Geometry((1, 1)), 0)[:, :, 0, 0], want)


def test_channel_fusion_touches_the_centre_tap_only() -> None:
    factors = DCDFactors(
        "channel", torch.zeros(1, 1, 3, 3), None, torch.tensor([[[[2.0]]]]), torch.ones(1, 1), torch.ones(1, 1)
    )
    want = torch.zeros(3, 3)
    want[1, 1] = 2
    assert torch.equal(reference_dcd_kernel(factors, Geometry((3, 3)), 0)[0, 0], want)


def test_joint_fusion_by_hand() -> None:
    # One latent channel in, two out, two latent taps: W[o, i, t] = Q[i] sum_bc P[o, b] Phi[0, b, c] R[t, c].
    phi = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 1, 1, 2, 2).expand(1, 1, 1, 2, 2)
    phi = torch.cat([phi, torch.zeros_like(phi)], dim=2)  # a = 1 contributes nothing
    factors = DCDFactors(
        "joint",
        torch.zeros(2, 1, 1, 2),
        None,
        phi,
        p=torch.eye(2),
        q=torch.tensor([[1.0, 0.0]]),
        r=torch.tensor([[1.0, 0.0], [0.0, 10.0]]),
    )
    kernel = reference_dcd_kernel(factors, Geometry((1, 2)), 0)
    assert torch.equal(kernel[:, 0, 0], torch.tensor([[1.0, 20.0], [3.0, 40.0]]))


def test_depthwise_by_hand() -> None:
    factors = DCDFactors(
        "depthwise",
        torch.zeros(2, 1, 1, 3),
        None,
        fusion=torch.tensor([[[0.0, 1.0], [0.0, 0.0]]]),
        p=torch.tensor([[1.0, 0.0], [2.0, 7.0]]),
        r=torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]]),
    )
    kernel = reference_dcd_kernel(factors, Geometry((1, 3), groups=2), 0)
    assert torch.equal(kernel[:, 0, 0], torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]]))


def test_input_scale_multiplies_the_columns_of_each_group() -> None:
    weight = torch.arange(1.0, 9.0).reshape(4, 2, 1, 1)
    factors = DCDFactors("channel", weight, input_scale=torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
    kernel = reference_dcd_kernel(factors, Geometry((1, 1), groups=2), 0)
    want = [[1.0, 20.0], [3.0, 40.0], [500.0, 6000.0], [700.0, 8000.0]]
    assert torch.equal(kernel[:, :, 0, 0], torch.tensor(want))


def test_fixed_norms_fold_into_phi() -> None:
    geometry = Geometry((3, 3), (2, 2), (1, 1), (1, 1), 2)
    x, weight, scale, fusion, p, q, s1, t1, s2, t2 = seeded_tensors(
        [(3, 8, 7, 5), (4, 4, 3, 3), (3, 4), (3, 4, 2, 2), (4, 2), (8, 2), (8,), (8,), (8,), (8,)]
    )
    factors = DCDFactors("channel", weight, scale, fusion, p, q)

    def norm(s: torch.Tensor, t: torch.Tensor):
        return lambda z: z * s[:, None, None] + t[:, None, None]

    want = reference_normalised_dcd(x, factors, geometry, (norm(s1, t1), norm(s2, t2)))
    folded, bias = fold_latent_norms(fusion, p, (s1, t1), (s2, t2))
    got = reference_dcd(x, factors._replace(fusion=folded), geometry) + bias[:, :, None, None]
    torch.testing.assert_close(got, want, **TOLERANCE["float64"])
