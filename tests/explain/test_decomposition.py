from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import TOLERANCE
from tests.messages import refuses
from torch import Tensor, nn

from dynaconv.explain.decomposition import LatentForm, latent_form, residual_form, svd_form
from dynaconv.explain.mixtures import layer_mixture, mix

EXACT = TOLERANCE["float64"]


def _mixture(*shape: int, batch: int = 3, softmax: bool = True, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Kernels of that shape and the attention of a batch: a softmax, or sigmoids that add up to anything."""
    generator = torch.Generator().manual_seed(seed)
    kernels = torch.randn(shape, generator=generator, dtype=torch.float64)
    logits = torch.randn(batch, shape[0], generator=generator, dtype=torch.float64)
    return kernels, logits.softmax(1) if softmax else logits.sigmoid()


def _sum_over_kernels(kernels: Tensor, attention: Tensor) -> Tensor:
    """The definition, one sample and one kernel at a time."""
    samples = [
        sum((a * w for a, w in zip(row, kernels, strict=True)), torch.zeros_like(kernels[0])) for row in attention
    ]
    return torch.stack(samples)


@st.composite
def _geometries(draw: st.DrawFn) -> tuple[tuple[int, ...], int]:
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    taps = draw(st.sampled_from([(1, 1), (3, 3), (1, 3), (2, 2)]))
    return (draw(st.integers(1, 5)), groups * rows, columns, *taps), groups


@settings(max_examples=40)
@given(geometry=_geometries(), softmax=st.booleans(), seed=st.integers(0, 99))
def test_every_form_is_the_mixture(geometry: tuple[tuple[int, ...], int], softmax: bool, seed: int) -> None:
    shape, groups = geometry
    kernels, attention = _mixture(*shape, softmax=softmax, seed=seed)
    exact = _sum_over_kernels(kernels, attention)
    residual, svd = residual_form(kernels), svd_form(kernels, groups=groups)
    torch.testing.assert_close(mix(kernels, attention), exact, **EXACT)
    torch.testing.assert_close(residual.reconstruct(attention), exact, **EXACT)
    torch.testing.assert_close(svd.reconstruct(attention), exact, **EXACT)
    assert residual.error(attention) < 1e-10
    assert svd.error(kernels, attention) < 1e-10


@pytest.mark.parametrize(("shape", "groups"), [((4, 6, 6, 1, 1), 1), ((3, 4, 7, 1, 1), 1), ((5, 6, 4, 1, 1), 3)])
@pytest.mark.parametrize("softmax", [True, False], ids=["softmax", "sigmoids"])
def test_the_latent_form_convolves_as_the_mixture_does(shape: tuple[int, ...], groups: int, softmax: bool) -> None:
    kernels, attention = _mixture(*shape, softmax=softmax)
    x = torch.randn(3, groups * shape[2], 5, 3, dtype=torch.float64)
    form = latent_form(kernels, groups=groups)
    exact = torch.cat([F.conv2d(x[b : b + 1], mix(kernels, attention)[b], groups=groups) for b in range(3)])
    torch.testing.assert_close(form.apply(x, attention), exact, **EXACT)
    assert form.features(x).shape == (3, groups, form.svd.latent_dim, 5, 3)


def test_a_square_pointwise_mixture_has_a_latent_space_of_k_times_c_channels() -> None:
    kernels, attention = _mixture(4, 6, 6, 1, 1)
    form = latent_form(kernels)
    assert form.svd.latent_dim == 4 * 6
    features = form.features(torch.randn(3, 6, 2, 2, dtype=torch.float64))
    # Attention acts on groups of C channels: group k is multiplied by a_k, each pixel alike.
    for k in range(4):
        group = slice(6 * k, 6 * k + 6)
        torch.testing.assert_close(
            form.attend(features, attention)[:, 0, group], features[:, 0, group] * attention[:, k, None, None, None]
        )


def test_the_residual_form_by_hand() -> None:
    kernels = torch.tensor([[[1.0, 0.0]], [[3.0, 4.0]]], dtype=torch.float64)[..., None, None]
    form = residual_form(kernels)
    assert form.mean.flatten().tolist() == [2, 2]
    assert form.residuals.flatten().tolist() == [-1, -2, 1, 2]
    assert form.reconstruct(torch.tensor([[0.25, 0.75]], dtype=torch.float64)).flatten().tolist() == [2.5, 3.0]
    # Sigmoids that sum to 2: twice the mean, and 1 * (1, 2) on top with the weights (0.5, 1.5).
    assert form.reconstruct(torch.tensor([[0.5, 1.5]], dtype=torch.float64)).flatten().tolist() == [5.0, 6.0]
    share = form.energy_share(torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=torch.float64))
    assert share.tolist() == pytest.approx([(0.5**2 + 1) / (2.5**2 + 3**2), 0])
    torch.testing.assert_close(form.cosine_similarity(), torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64))


def test_singular_vectors_are_orthonormal_and_values_descend() -> None:
    kernels, _ = _mixture(3, 8, 2, 3, 3)
    form = svd_form(kernels, groups=2)
    eye = torch.eye(4, dtype=torch.float64).expand(3, 2, 4, 4)
    torch.testing.assert_close(form.u.mT @ form.u, eye)
    torch.testing.assert_close(form.v.mT @ form.v, eye)
    assert (form.singular_values.diff(dim=-1) <= 0).all()


def test_copies_of_one_kernel_have_no_residual() -> None:
    kernel = torch.randn(1, 5, 4, 3, 3)
    form = residual_form(kernel.expand(3, -1, -1, -1, -1))
    assert form.residuals.count_nonzero() == 0
    assert form.cosine_similarity().count_nonzero() == 0
    assert form.energy_share(torch.rand(2, 3)).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_raised_to_float32(dtype: torch.dtype) -> None:
    kernels, attention = _mixture(3, 6, 4, 1, 1)
    kernels, attention = kernels.to(dtype), attention.to(dtype)
    form = latent_form(kernels)
    assert form.svd.mean.dtype == torch.float32
    assert form.svd.error(kernels, attention) < 1e-5
    x = torch.randn(3, 4, 2, 2, dtype=dtype)
    assert form.apply(x, attention).dtype == torch.float32


class _Experts(nn.Module):
    def __init__(self, groups: int = 1, columns: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6, columns, 3, 3))
        self.groups = groups

    def coefficients(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(attention=x.mean(dim=(2, 3))[:, :3].softmax(1))


@pytest.mark.parametrize(("columns", "groups", "read"), [(4, 1, 1), (2, 3, 3), (1, 6, 1)])
def test_a_layer_gives_its_kernels_attention_and_groups(columns: int, groups: int, read: int) -> None:
    layer = _Experts(groups, columns)
    x = torch.randn(5, columns * groups, 4, 4)
    mixture = layer_mixture(layer, x)
    assert mixture.groups == read
    assert mixture.attention.shape == (5, 3)
    assert not mixture.kernels.requires_grad
    assert svd_form(mixture.kernels, groups=mixture.groups).error(mixture.kernels, mixture.attention) < 1e-5


def test_what_is_no_mixture_is_refused() -> None:
    with refuses(ValueError, "Conv2d"):
        layer_mixture(nn.Conv2d(3, 4, 1), torch.randn(1, 3, 2, 2))
    with refuses(ValueError, "ReLU"):
        layer_mixture(nn.ReLU(), torch.randn(1, 3, 2, 2))
    silent = nn.Module()
    silent.weight = nn.Parameter(torch.randn(3, 6, 4, 1, 1))
    with refuses(ValueError, "coefficients"):
        layer_mixture(silent, torch.randn(1, 4, 2, 2))


@pytest.mark.parametrize(
    "kernels",
    [
        torch.randn(3, 4, 5),
        torch.randn(4, 5, 3, 3),
        torch.randn(3, 0, 4, 1, 1),
        torch.ones(3, 4, 4, 1, 1, dtype=torch.int64),
        torch.tensor([1.0, float("nan"), float("inf")]).view(3, 1, 1, 1, 1),
    ],
    ids=["3-axes", "4-axes", "empty", "integers", "not-finite"],
)
def test_wrong_kernels_are_refused(kernels: Tensor) -> None:
    for form in (residual_form, svd_form):
        with refuses(ValueError):
            form(kernels)


@pytest.mark.parametrize(
    "attention",
    [
        torch.rand(3),
        torch.rand(0, 3),
        torch.rand(2, 4),
        torch.full((1, 3), float("nan")),
    ],
    ids=["1-axis", "no-sample", "other-K", "not-finite"],
)
def test_wrong_attention_is_refused(attention: Tensor) -> None:
    kernels = torch.randn(3, 4, 4, 1, 1)
    for reconstruct in (residual_form(kernels).reconstruct, svd_form(kernels).reconstruct):
        with refuses(ValueError):
            reconstruct(attention)


def test_groups_and_sizes_that_do_not_fit_are_refused() -> None:
    for groups in (4, 0, True):
        with refuses(ValueError, "groups"):
            svd_form(torch.randn(3, 6, 4, 1, 1), groups=groups)
    with refuses(ValueError):
        latent_form(torch.randn(3, 6, 4, 3, 3))
    form = latent_form(torch.randn(3, 6, 4, 1, 1))
    assert isinstance(form, LatentForm)
    with refuses(ValueError):
        form.apply(torch.randn(2, 5, 3, 3), torch.rand(2, 3))
    with refuses(ValueError):
        form.apply(torch.randn(2, 4, 3, 3), torch.rand(1, 3))
