"""Default latent sizes."""

import pytest

from dynaconv.families.dcd import default_latent_dim, default_latent_taps


@pytest.mark.parametrize(
    ("channels", "latent"), [(1, 1), (2, 2), (3, 3), (4, 2), (16, 4), (24, 6), (64, 8), (96, 12), (160, 20), (320, 20)]
)
def test_latent_dim_follows_the_formula(channels: int, latent: int) -> None:
    assert default_latent_dim(channels) == latent


def test_latent_dim_stays_between_one_and_two_roots() -> None:
    for channels in range(1, 4097):
        latent = default_latent_dim(channels)
        assert latent <= channels
        assert (latent + 1) ** 2 > channels
        assert latent < 2 * channels**0.5 + 1e-9


@pytest.mark.parametrize(("taps", "latent"), [(1, 1), (2, 1), (9, 4), (15, 7), (25, 12)])
def test_latent_taps_are_half_of_the_taps(taps: int, latent: int) -> None:
    assert default_latent_taps(taps) == latent
