"""Augmentation of whole batches."""

import pytest
import torch

from dynaconv.train.data.transforms import BatchTransform, resize_batch

MEAN, STD = (0.25, 0.5, 0.75), (0.5, 0.25, 0.125)


def images(batch: int = 5, height: int = 9, width: int = 7) -> torch.Tensor:
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8)


def test_without_augmentation_it_normalises() -> None:
    x = images()
    wanted = (x.double() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(BatchTransform(mean=MEAN, std=STD)(x).double(), wanted, rtol=1e-5, atol=1e-5)


def test_every_crop_is_a_window_of_the_padded_image() -> None:
    x = images(batch=40)
    got = BatchTransform(mean=(0.0,) * 3, std=(1.0,) * 3, padding=2)(x) * 255
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2)).float()
    offsets = set()
    for index in range(len(x)):
        fits = [
            (row, column)
            for row in range(5)
            for column in range(5)
            if torch.allclose(padded[index, :, row : row + 9, column : column + 7], got[index], atol=0.01)
        ]
        assert fits
        offsets.add(fits[0])
    assert len(offsets) > 10


def test_about_half_of_the_images_are_mirrored() -> None:
    x = images(batch=200)
    got = BatchTransform(mean=(0.0,) * 3, std=(1.0,) * 3, flip=True)(x) * 255
    mirrored = [torch.allclose(got[i], x[i].flip(-1).float(), atol=0.01) for i in range(200)]
    plain = [torch.allclose(got[i], x[i].float(), atol=0.01) for i in range(200)]
    assert all(a != b for a, b in zip(mirrored, plain, strict=True))
    assert 70 < sum(mirrored) < 130


@pytest.mark.parametrize(("probability", "low", "high"), [(1.0, 100, 100), (0.3, 15, 45)])
def test_erasing_blanks_one_rectangle_of_the_chosen_images(probability: float, low: int, high: int) -> None:
    x = torch.full((100, 3, 16, 16), 255, dtype=torch.uint8)
    got = BatchTransform(mean=(0.0,) * 3, std=(1.0,) * 3, erase_prob=probability)(x)
    blank = got[:, 0] == 0
    assert low <= int(blank.any((1, 2)).sum()) <= high
    for mask in blank[blank.any((1, 2))]:
        rows, columns = mask.any(1), mask.any(0)
        assert int(mask.sum()) == int(rows.sum()) * int(columns.sum())
        assert int(mask.sum()) <= 0.5 * 16 * 16


def test_resizing_keeps_the_range_and_the_type() -> None:
    resized = resize_batch(images(), 12)
    assert resized.shape == (5, 3, 12, 12)
    assert resized.dtype == torch.uint8
    same = images(height=7)
    assert resize_batch(same, 7) is same
