from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.messages import refuses
from torch import Tensor, nn

from dynaconv.explain.coefficients import PartStatistics, collect_coefficients


def _batches(images: Tensor, classes: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(images.split(size), classes.split(size), strict=True))


def test_statistics_equal_numpy_whatever_the_batch_size(toy: nn.Sequential, labelled: tuple[Tensor, Tensor]) -> None:
    images, classes = labelled[0].double(), labelled[1]
    toy.double()
    with torch.no_grad():
        values = toy[0].coefficients(images).fusion.numpy()
    labels = classes.numpy()
    means = np.stack([values[labels == k].mean(0) for k in range(3)])
    within = sum(((values[labels == k] - means[k]) ** 2).sum() for k in range(3)) / len(values)
    total = ((values - values.mean(0)) ** 2).sum() / len(values)
    for size in (1, 5, 37):
        first, _ = collect_coefficients(toy, _batches(images, classes, size), num_classes=3)
        part = first.parts["fusion"]
        np.testing.assert_allclose(part.class_means.numpy(), means, rtol=1e-9)
        np.testing.assert_allclose(part.class_variances[1].numpy(), values[labels == 1].var(0), rtol=1e-9)
        np.testing.assert_allclose(part.mean.numpy(), values.mean(0), rtol=1e-9)
        np.testing.assert_allclose(part.deviation.numpy(), values.std(0), rtol=1e-9)
        np.testing.assert_allclose(part.minimum.numpy(), values.min(0), rtol=1e-9)
        np.testing.assert_allclose(part.maximum.numpy(), values.max(0), rtol=1e-9)
        np.testing.assert_allclose(part.class_maxima[2].numpy(), values[labels == 2].max(0), rtol=1e-9)
        assert part.counts.tolist() == [int((labels == k).sum()) for k in range(3)]
        assert float(part.within.sum()) == pytest.approx(within, rel=1e-9)
        assert part.share_between == pytest.approx(1 - within / total, rel=1e-9)
        assert part.variance_ratio == pytest.approx((total - within) / within, rel=1e-9)


def test_layers_and_parts_come_in_the_order_of_the_network(toy: nn.Sequential, labelled: tuple[Tensor, Tensor]) -> None:
    layers = collect_coefficients(toy, [labelled], num_classes=3)
    assert [layer.name for layer in layers] == ["0", "2"]
    assert list(layers[0].parts) == ["scale", "fusion"]
    assert layers[0].share_between == sum(part.share_between for part in layers[0].parts.values()) / 2


def test_a_class_without_samples_is_nan_and_changes_nothing(
    toy: nn.Sequential, labelled: tuple[Tensor, Tensor]
) -> None:
    few = collect_coefficients(toy, [labelled], num_classes=3)[0].parts["scale"]
    many = collect_coefficients(toy, [labelled], num_classes=5)[0].parts["scale"]
    for by_class in (many.class_means, many.class_variances, many.class_minima, many.class_maxima):
        assert by_class[3:].isnan().all()
        assert not by_class[:3].isnan().any()
    assert many.counts.tolist()[3:] == [0, 0]
    assert many.share_between == pytest.approx(few.share_between)
    assert many.share_by_chance == few.share_by_chance == pytest.approx(2 / 36)


def test_a_part_that_never_changes_has_no_share_and_one_that_is_the_class_has_all() -> None:
    def part(means: list[float], variances: list[float]) -> PartStatistics:
        column = torch.tensor(means, dtype=torch.float64)[:, None]
        spread = torch.tensor(variances, dtype=torch.float64)[:, None]
        return PartStatistics(
            counts=torch.tensor([4, 4]),
            class_means=column,
            class_variances=spread,
            class_minima=column - spread,
            class_maxima=column + spread,
            mean=column.mean(0),
        )

    assert (part([1, 1], [0, 0]).share_between, part([1, 1], [0, 0]).variance_ratio) == (0.0, 0.0)
    assert (part([1, 3], [0, 0]).share_between, part([1, 3], [0, 0]).variance_ratio) == (1.0, math.inf)
    assert part([1, 3], [1, 1]).share_between == 0.5
    # A dead branch gives one number for every picture, up to rounding in float32.
    assert part([1, 1 + 1e-8], [0, 0]).share_between == 0.0


def test_the_model_is_left_as_it_was_also_after_an_error(toy: nn.Sequential, labelled: tuple[Tensor, Tensor]) -> None:
    images, _ = labelled
    toy.train()
    collect_coefficients(toy, [labelled], num_classes=3)
    with refuses(ValueError, "num_classes"):
        collect_coefficients(toy, [labelled], num_classes=2)
    with refuses(ValueError):
        collect_coefficients(toy, [(images, torch.rand(len(images), 3))], num_classes=3)
    assert all(module.training for module in toy.modules())
    assert not any(module._forward_pre_hooks for module in toy.modules())


def test_max_batches_stops_early_and_nothing_to_collect_is_an_error(
    toy: nn.Sequential, labelled: tuple[Tensor, Tensor]
) -> None:
    layers = collect_coefficients(toy, _batches(*labelled, 10), num_classes=3, max_batches=2)
    assert int(layers[0].parts["scale"].counts.sum()) == 20
    with refuses(ValueError):
        collect_coefficients(toy, [], num_classes=3)
    with refuses(ValueError):
        collect_coefficients(nn.Conv2d(1, 1, 1), [labelled], num_classes=3)


def test_a_part_that_is_none_is_left_out(labelled: tuple[Tensor, Tensor], toy: nn.Sequential) -> None:
    layer = type(toy[0])(4, latent=0)
    (found,) = collect_coefficients(layer, [labelled], num_classes=3)
    assert list(found.parts) == ["scale"]
