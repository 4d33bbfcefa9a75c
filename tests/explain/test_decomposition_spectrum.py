from __future__ import annotations

import math

import pytest
import torch
from tests.messages import refuses

from dynaconv.explain.decomposition import residual_form, svd_form
from dynaconv.explain.decomposition_spectrum import (
    cumulative_energy,
    directions_for_energy,
    effective_rank,
    residual_spectrum,
)


def _kernels(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_values_are_those_of_the_matrices_written_out() -> None:
    kernels = _kernels(3, 4, 5, 1, 1)
    residuals = residual_form(kernels).residuals[..., 0, 0]
    spectrum = residual_spectrum(kernels)
    for k in range(3):
        torch.testing.assert_close(spectrum.per_kernel[k], torch.linalg.svdvals(residuals[k]))
    torch.testing.assert_close(spectrum.outputs, torch.linalg.svdvals(torch.cat(list(residuals), dim=1)))
    torch.testing.assert_close(spectrum.inputs, torch.linalg.svdvals(torch.cat(list(residuals), dim=0)))
    torch.testing.assert_close(spectrum.mean, torch.linalg.svdvals(kernels.mean(0)[..., 0, 0]))


def test_groups_are_blocks_of_one_matrix() -> None:
    kernels = _kernels(3, 6, 2, 3, 3)
    spectrum = residual_spectrum(kernels, groups=2)
    residuals = residual_form(kernels).residuals.reshape(3, 2, 3, 18)
    whole = torch.stack([torch.block_diag(*blocks) for blocks in residuals])
    rank = 6
    torch.testing.assert_close(spectrum.per_kernel, torch.linalg.svdvals(whole)[:, :rank])
    torch.testing.assert_close(spectrum.outputs, torch.linalg.svdvals(torch.cat(list(whole), dim=1))[:rank])
    torch.testing.assert_close(spectrum.inputs[:rank], torch.linalg.svdvals(torch.cat(list(whole), dim=0))[:rank])
    values = svd_form(kernels, groups=2).singular_values.flatten(1).sort(descending=True).values
    torch.testing.assert_close(spectrum.per_kernel, values)


def test_shared_directions_show_in_the_joint_spectrum() -> None:
    p, q, fusion = _kernels(12, 2), _kernels(9, 2, seed=1), _kernels(4, 2, 2, seed=2)
    kernels = (_kernels(12, 9, seed=3) + p @ fusion @ q.T)[..., None, None]
    spectrum = residual_spectrum(kernels)
    for values in (spectrum.outputs, spectrum.inputs, *spectrum.per_kernel):
        assert directions_for_energy(values, 1.0 - 1e-9) == 2
    assert effective_rank(spectrum.mean) > 4


def test_effective_rank_counts_equal_directions() -> None:
    assert effective_rank(torch.ones(7)) == pytest.approx(7)
    assert effective_rank(torch.tensor([3.0, 0, 0])) == pytest.approx(1)
    assert effective_rank(torch.zeros(4)) == 0
    shares = (0.75, 0.25)
    entropy = -sum(p * math.log(p) for p in shares)
    assert effective_rank(torch.tensor([3.0, 1.0], dtype=torch.float64)) == pytest.approx(math.exp(entropy))


def test_energy_is_counted_from_the_largest() -> None:
    values = torch.tensor([1.0, 3.0, 2.0, 0.0])
    assert cumulative_energy(values).tolist() == pytest.approx([9 / 14, 13 / 14, 1, 1])
    assert [directions_for_energy(values, share) for share in (0.1, 9 / 14, 0.9, 0.99, 1.0)] == [1, 1, 2, 3, 3]
    assert directions_for_energy(torch.zeros(3), 0.9) == 0
    assert cumulative_energy(torch.zeros(3)).tolist() == [0, 0, 0]


def test_wrong_values_are_refused() -> None:
    for share in (0, 1.01, 90, float("nan")):
        with refuses(ValueError, "share"):
            directions_for_energy(torch.ones(3), share)
    for values in (torch.tensor([1.0, -0.5]), torch.empty(0), torch.tensor([float("nan")])):
        with refuses(ValueError):
            effective_rank(values)
    with refuses(ValueError):
        residual_spectrum(torch.randn(3, 4, 5))
