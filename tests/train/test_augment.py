"""Strong augmentation: each image follows from its key alone, and every option does what it says."""

import pytest
import torch

from dynaconv.errors import DataError
from dynaconv.train.data.augment import PictureAugment, sample_affine, white_noise
from dynaconv.train.data.keyed import image_keys
from tests.messages import refuses

SIZE = 16
PLAIN = {
    "size": SIZE,
    "rotation": 0.0,
    "scale": (1.0, 1.0),
    "stretch": 1.0,
    "shear": 0.0,
    "shift": 0.0,
    "blur": (0.0, 0.0),
    "gain": (1.0, 1.0),
    "contrast": (1.0, 1.0),
    "invert": 0.0,
    "gradient": 0.0,
    "noise": (0.0, 0.0),
}


def plain(**changes: object) -> PictureAugment:
    """Nothing is changed but what is asked for."""
    return PictureAugment(**{**PLAIN, **changes})  # type: ignore[arg-type]


def square(count: int = 200, side: int = SIZE, inner: int = 4) -> torch.Tensor:
    """A light square in the middle."""
    images = torch.zeros(count, 1, side, side, dtype=torch.uint8)
    low = (side - inner) // 2
    images[:, :, low : low + inner, low : low + inner] = 255
    return images


def keys(count: int = 200) -> torch.Tensor:
    return image_keys(1, 2, range(count))


def test_without_any_range_images_stay_as_they_are() -> None:
    images = torch.randint(0, 256, (5, 1, SIZE, SIZE), dtype=torch.uint8)
    assert torch.equal(plain()(images, keys(5)), images)


def test_an_image_follows_from_its_own_key() -> None:
    images = torch.randint(0, 256, (23, 1, 24, 24), dtype=torch.uint8)
    draw = PictureAugment(size=SIZE)
    whole = draw(images, keys(23))
    assert whole.shape == (23, 1, SIZE, SIZE)
    assert whole.dtype == torch.uint8
    for rows in ([3], [22, 0, 7], list(range(5, 18))):
        assert torch.equal(draw(images[rows], keys(23)[rows]), whole[rows])
    assert not torch.equal(draw(images, image_keys(1, 3, range(23))), whole)


def test_positions_are_moved_by_the_matrix() -> None:
    images = torch.rand(2, 3, 9, 9)
    zero, one = torch.zeros(2), torch.ones(2)
    quarter = sample_affine(images, (zero, one, zero, -one, zero, zero), (9, 9))
    torch.testing.assert_close(quarter, torch.rot90(images, -1, (2, 3)), rtol=0, atol=1e-5)
    moved = sample_affine(images, (one, zero, one * (2 / 9), zero, one, zero), (9, 9))
    torch.testing.assert_close(moved[..., :-1], images[..., 1:], rtol=0, atol=1e-5)
    assert float(moved[..., -1].abs().max()) < 1e-5


def width_and_height(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of what is lighter than half."""
    lit = images[:, 0] > 127
    return lit.any(1).sum(1), lit.any(2).sum(1)


def test_scale_and_stretch() -> None:
    wide, tall = width_and_height(plain(scale=(0.5, 0.5))(square(inner=8), keys()))
    assert set(wide.tolist()) == set(tall.tolist()) == {4}
    wide, tall = width_and_height(plain(scale=(0.5, 2.0))(square(inner=8), keys()))
    assert torch.equal(wide, tall)
    assert (int(wide.min()), int(wide.max())) == (4, 16)
    wide, tall = width_and_height(plain(stretch=4.0)(square(inner=4), keys()))
    assert int((wide.float() / tall).max()) >= 3
    assert float((wide.float() / tall).min()) <= 1 / 3


def centres(images: torch.Tensor) -> torch.Tensor:
    """Centre of mass against the middle, (B, 2): to the right, down."""
    mass = images[:, 0].double()
    place = torch.arange(mass.shape[-1], dtype=torch.float64) - (mass.shape[-1] - 1) / 2
    total = mass.sum((1, 2))
    return torch.stack([(mass.sum(1) * place).sum(1) / total, (mass.sum(2) * place).sum(1) / total], 1)


def test_shift_is_a_share_of_the_side() -> None:
    moved = centres(plain(shift=0.25)(square(), keys()))
    assert float(moved.abs().max()) <= 0.25 * SIZE + 0.01
    assert float(moved.min()) < -0.2 * SIZE
    assert float(moved.max()) > 0.2 * SIZE


def test_rotation_and_shear_keep_the_middle_where_it_is() -> None:
    images = square(inner=8)
    turned = plain(rotation=45.0)(images, keys())
    sheared = plain(shear=0.5)(images, keys())
    for got in (turned, sheared):
        assert float(centres(got).abs().max()) < 0.1
        assert float((got.float() - images.float()).abs().mean()) > 1
    # A square turned by 45 degrees is wider, a sheared one is as tall as before.
    assert int(width_and_height(turned)[0].max()) >= 10
    assert set(width_and_height(sheared)[1].tolist()) == {8}
    # The largest angle is in degrees: a turn of half of it changes less.
    slight = plain(rotation=4.5)(images, keys())
    assert float((slight.float() - images.float()).abs().mean()) < 0.3 * float(
        (turned.float() - images.float()).abs().mean()
    )


def test_contrast_background_and_inversion() -> None:
    got = plain(contrast=(0.25, 0.5), invert=0.3)(square(), keys()).float()
    shape, background = got[:, 0, SIZE // 2, SIZE // 2], got[:, 0, 0, 0]
    difference = (shape - background).abs() / 255
    assert float(difference.min()) > 0.25 - 0.01
    assert float(difference.max()) < 0.5 + 0.01
    assert 0.2 < float((shape < background).float().mean()) < 0.4
    assert float(background.min()) < 20
    assert float(background.max()) > 235


def test_gradient_goes_across_the_background() -> None:
    got = plain(gradient=0.4, contrast=(0.1, 0.1))(torch.zeros(200, 1, SIZE, SIZE, dtype=torch.uint8), keys()).float()
    across = (got[:, 0, SIZE // 2, -1] - got[:, 0, SIZE // 2, 0]) / 255
    assert float(across.max()) > 0.3
    assert float(across.min()) < -0.3
    assert float(across.abs().max()) < 0.41


def test_blur_and_gain_change_the_strokes() -> None:
    images = square()
    blurred = plain(blur=(1.0, 1.0))(images, keys())
    assert int(blurred[0, 0, 5, 8]) == 85  # a third of the 3 x 3 pixels
    thick = plain(blur=(1.0, 1.0), gain=(3.0, 3.0))(images, keys())
    assert set(width_and_height(thick)[0].tolist()) == {6}


def test_noise_has_its_standard_deviation() -> None:
    grey = torch.full((400, 1, SIZE, SIZE), 128, dtype=torch.uint8)
    got = plain(noise=(0.1, 0.1))(grey, image_keys(0, 0, range(400))).float() / 255
    assert float(got.mean()) == pytest.approx(128 / 255, abs=2e-3)
    assert float(got.std()) == pytest.approx(0.1, rel=0.02)
    pixels = got[:, 0].flatten(1) - got.mean()
    # Neither neighbours in an image nor images have to do with each other.
    assert abs(float(torch.corrcoef(torch.stack([pixels[:, 1:].flatten(), pixels[:, :-1].flatten()]))[0, 1])) < 0.01
    assert float((torch.corrcoef(pixels[:40]) - torch.eye(40)).abs().mean()) < 0.08


def test_noise_for_too_many_pixels_is_refused() -> None:
    with refuses(DataError, "image_size"):
        white_noise(torch.zeros(1), torch.zeros(1), 40_000)
