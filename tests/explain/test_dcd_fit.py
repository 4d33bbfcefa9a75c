from __future__ import annotations

import pytest
import torch
from tests.messages import refuses
from torch import Tensor

from dynaconv.explain.dcd_fit import DCDFit, dcd_error_curve, fit_dcd
from dynaconv.explain.mixtures import mix


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _attention(num_kernels: int, batch: int = 32, *, softmax: bool = True, seed: int = 0) -> Tensor:
    logits = 2 * _random(batch, num_kernels, seed=1000 + seed)
    return logits.softmax(1) if softmax else logits.sigmoid()


def _exact_dcd(
    num_kernels: int, rows: int, columns: int, latent: int, *, spread: float = 0.3, taps: int = 1, seed: int = 0
) -> Tensor:
    """Kernels W_k = Lambda_k W0 + P Phi_k Q^T: every combination whose weights sum to one is a DCD kernel."""
    parts = [(rows, columns), (num_kernels, rows), (rows, latent), (num_kernels, latent, latent), (columns, latent)]
    weight, scale, p, fusion, q = (_random(*shape, seed=10 * seed + n) for n, shape in enumerate(parts))
    residual = (p / rows**0.5) @ fusion @ (q / columns**0.5).T
    kernels = (1 + spread * scale)[:, :, None] * (weight / columns**0.5) + residual
    return kernels.reshape(num_kernels, rows, columns // taps**2, taps, taps)


def _measured(fit: DCDFit, kernels: Tensor, attention: Tensor) -> tuple[float, Tensor]:
    """The errors of what the fit reconstructs, from the kernels of all samples."""
    exact = mix(kernels.double(), attention)
    lost, whole = (values.flatten(1).norm(dim=1) for values in (exact - fit.reconstruct(attention), exact))
    return float(lost.norm() / whole.norm()), lost / whole


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("num_kernels", "rows", "columns", "latent"),
    [(4, 24, 24, 5), (4, 16, 24, 3), (8, 24, 12, 4), (4, 12, 12, 2), (3, 16, 16, 3), (2, 9, 7, 1)],
)
def test_an_exact_dcd_is_recovered(num_kernels: int, rows: int, columns: int, latent: int, seed: int) -> None:
    kernels = _exact_dcd(num_kernels, rows, columns, latent, seed=seed)
    attention = _attention(num_kernels, seed=seed)
    fit = fit_dcd(kernels, attention, latent)
    assert fit.error < 1e-6
    assert _measured(fit, kernels, attention)[0] < 1e-6
    # It holds for attention that the fit has not seen, since every mixture of these kernels is a DCD.
    assert _measured(fit, kernels, _attention(num_kernels, seed=99))[0] < 1e-6


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("rows", "columns", "latent"), [(24, 24, 5), (16, 8, 3), (8, 20, 1)])
def test_an_exact_dcd_without_lambda_is_recovered(rows: int, columns: int, latent: int, seed: int) -> None:
    kernels = _exact_dcd(4, rows, columns, latent, spread=0, seed=seed)
    attention = _attention(4, seed=seed)
    for scale in (False, True):
        fit = fit_dcd(kernels, attention, latent, scale=scale)
        assert max(fit.error, _measured(fit, kernels, attention)[0]) < 1e-6
    # One direction fewer is not enough, so the recovery is not for free.
    assert fit_dcd(kernels, attention, latent - 1, scale=False).error > 1e-3


def test_lambda_alone_is_recovered_with_no_residual() -> None:
    assert fit_dcd(_exact_dcd(4, 10, 12, 1), _attention(4), 0).error > 1e-3
    weight, scale = _random(10, 12, 1, 1), _random(4, 10, seed=1)
    fit = fit_dcd(scale[:, :, None, None, None] * weight, _attention(4), 0)
    assert fit.error < 1e-10
    assert fit.coefficients(_attention(4)).fusion.shape == (32, 1, 0, 0)


def test_the_error_needs_lambda_where_the_mixture_has_one() -> None:
    kernels, attention = _exact_dcd(4, 16, 16, 2), _attention(4)
    assert fit_dcd(kernels, attention, 2, scale=False).error > 0.05
    assert fit_dcd(kernels, attention, 2).error < 1e-6


@pytest.mark.parametrize("scale", [True, False], ids=["lambda", "no-lambda"])
@pytest.mark.parametrize("softmax", [True, False], ids=["softmax", "sigmoids"])
@pytest.mark.parametrize(
    ("shape", "groups", "taps"),
    [
        ((4, 8, 6, 1, 1), 1, "all"),
        ((3, 6, 4, 3, 3), 1, "all"),
        ((3, 6, 4, 3, 3), 1, "centre"),
        ((4, 6, 4, 1, 1), 2, "all"),
        ((3, 8, 1, 3, 3), 1, "all"),
    ],
    ids=["pointwise", "3x3", "centre", "groups", "depthwise"],
)
def test_reported_errors_are_those_of_the_reconstruction(
    shape: tuple[int, ...], groups: int, taps: str, softmax: bool, scale: bool
) -> None:
    kernels, attention = _random(*shape), _attention(shape[0], softmax=softmax)
    fit = fit_dcd(kernels, attention, 2, scale=scale, groups=groups, taps=taps, max_steps=50)
    error, sample_errors = _measured(fit, kernels, attention)
    assert fit.error == pytest.approx(error, rel=1e-8)
    torch.testing.assert_close(fit.sample_errors, sample_errors)
    exact = mix(kernels, attention)
    moving = float((exact - exact.mean(0)).norm())
    assert fit.static_error == pytest.approx(moving / float(exact.norm()))
    assert fit.residual_error == pytest.approx(error * float(exact.norm()) / moving)
    eye = torch.eye(2, dtype=torch.float64).expand(groups, 2, 2)
    torch.testing.assert_close(fit.p.mT @ fit.p, eye)
    torch.testing.assert_close(fit.q.mT @ fit.q, eye)


def test_a_search_that_is_cut_short_says_so() -> None:
    kernels, attention = _random(3, 6, 6, 1, 1), _attention(3)
    short, whole = fit_dcd(kernels, attention, 2, max_steps=2), fit_dcd(kernels, attention, 2)
    assert not short.converged
    assert whole.converged
    assert whole.error < short.error


@pytest.mark.parametrize("scale", [True, False], ids=["lambda", "no-lambda"])
def test_coefficients_are_the_least_squares_ones(scale: bool) -> None:
    kernels, attention = _random(4, 5, 6, 1, 1), _attention(4)
    fit = fit_dcd(kernels, attention, 2, scale=scale)
    sample = mix(kernels, attention)[7].flatten()
    weight, (p,), (q,) = fit.weight.reshape(5, 6), fit.p, fit.q
    columns = [torch.outer(p[:, i], q[:, j]) for i in range(2) for j in range(2)]
    rows = [torch.diag(unit) @ weight for unit in torch.eye(5, dtype=torch.float64)] if scale else []
    design = torch.stack([column.flatten() for column in rows + columns], dim=1)
    target = sample if scale else sample - weight.flatten()
    best = torch.linalg.lstsq(design, target[:, None]).solution
    assert fit.sample_errors[7] == pytest.approx(float((design @ best - target[:, None]).norm() / sample.norm()), 1e-4)
    found = fit.coefficients(attention[7:8])
    torch.testing.assert_close(found.fusion.flatten(), best[-4:, 0], rtol=1e-2, atol=1e-2)


def test_without_lambda_the_batch_mean_is_the_best_static_kernel() -> None:
    kernels, attention = _random(4, 6, 7, 1, 1), _attention(4)
    fit = fit_dcd(kernels, attention, 2, scale=False)
    exact = mix(kernels, attention)[..., 0, 0]
    torch.testing.assert_close(fit.weight[..., 0, 0], exact.mean(0))
    (p,), (q,) = fit.p, fit.q

    def error(weight: Tensor) -> float:
        rest = exact - weight
        return float((rest - p @ p.T @ rest @ q @ q.T).norm())

    least = error(exact.mean(0))
    assert least == pytest.approx(fit.error * float(exact.norm()))
    assert all(error(exact.mean(0) + 0.01 * _random(6, 7, seed=seed)) > least for seed in range(5))


def test_lambda_is_one_on_average() -> None:
    kernels, attention = _exact_dcd(4, 12, 12, 2), _attention(4)
    scale = fit_dcd(kernels, attention, 2).coefficients(attention).scale
    assert scale is not None
    torch.testing.assert_close(scale.mean(0), torch.ones(12, dtype=torch.float64))


@pytest.mark.parametrize("softmax", [True, False], ids=["softmax", "sigmoids"])
def test_more_latent_channels_and_lambda_never_make_it_worse(softmax: bool) -> None:
    kernels, attention = _random(3, 5, 5, 1, 1), _attention(3, softmax=softmax)
    with_lambda = dcd_error_curve(kernels, attention, range(6), max_steps=50)
    without = dcd_error_curve(kernels, attention, range(6), scale=False)
    for curve in (with_lambda, without):
        assert all(b <= a + 1e-12 for a, b in zip(curve.errors, curve.errors[1:], strict=False))
        assert curve.errors[-1] < 1e-9
        assert curve.sample_errors.shape == (6, 32)
    assert all(a <= b + 1e-12 for a, b in zip(with_lambda.errors, without.errors, strict=True))
    assert without.errors[0] == pytest.approx(without.static_error)
    assert without.residual_errors[0] == pytest.approx(1)


def test_the_curve_keeps_the_order_it_was_asked_for() -> None:
    kernels, attention = _random(3, 6, 6, 1, 1), _attention(3)
    curve = dcd_error_curve(kernels, attention, [3, 1, 3], scale=False)
    assert curve.latent_dims == (3, 1, 3)
    assert curve.errors[0] == curve.errors[2] < curve.errors[1]


def test_samples_count_once_each() -> None:
    kernels, attention = _random(4, 6, 6, 1, 1), _attention(4)
    once, twice = (fit_dcd(kernels, a, 2, scale=False) for a in (attention, attention.repeat(2, 1)))
    assert once.error == pytest.approx(twice.error)
    torch.testing.assert_close(twice.sample_errors, once.sample_errors.repeat(2))


@pytest.mark.parametrize("scale", [True, False], ids=["lambda", "no-lambda"])
def test_a_mixture_that_does_not_vary_is_met_exactly(scale: bool) -> None:
    kernels, attention = _random(4, 6, 6, 1, 1), _attention(4)
    copies = kernels[:1].expand(4, -1, -1, -1, -1)
    for case in ((kernels, attention[:1]), (copies, attention), (0 * kernels, attention), (kernels, 0 * attention)):
        fit = fit_dcd(*case, 2, scale=scale)
        assert fit.error < 1e-9
        torch.testing.assert_close(fit.reconstruct(case[1]), mix(*case))


def test_what_does_not_fit_is_refused() -> None:
    kernels, attention = torch.randn(3, 6, 4, 3, 3), torch.rand(5, 3)
    for latent in (-1, 7, 2.0, True):
        with refuses(ValueError):
            fit_dcd(kernels, attention, latent)
    with refuses(ValueError):
        fit_dcd(kernels, attention, 5, taps="centre")
    with refuses(ValueError, "taps"):
        fit_dcd(kernels, attention, 2, taps="center")
    with refuses(ValueError):
        fit_dcd(kernels, attention[:, :2], 2)
    with refuses(ValueError):
        fit_dcd(kernels[0], attention, 2)
    with refuses(ValueError, "groups"):
        fit_dcd(kernels, attention, 2, groups=4)
    with refuses(ValueError, "max_steps"):
        fit_dcd(kernels, attention, 2, max_steps=0)
    with refuses(ValueError, "latent_dims"):
        dcd_error_curve(kernels, attention, [])


@pytest.mark.parametrize("seed", [15, 25])
def test_restarts_find_what_the_first_starts_miss(seed: int) -> None:
    kernels, attention = _exact_dcd(3, 8, 9, 2, spread=1, seed=seed), _attention(3, seed=seed)
    assert fit_dcd(kernels, attention, 2, restarts=0).error > 1e-3
    assert fit_dcd(kernels, attention, 2).error < 1e-6


def test_a_negative_number_of_restarts_is_refused() -> None:
    with refuses(ValueError, "restarts"):
        fit_dcd(_exact_dcd(3, 8, 9, 2), _attention(3), 2, restarts=-1)
