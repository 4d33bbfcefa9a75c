from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.explain.drawn import assert_drawn
from tests.messages import refuses

from dynaconv.explain import figures
from dynaconv.explain.coefficients import LayerCoefficients, PartStatistics
from dynaconv.explain.figures import choose_layer, class_coefficients, read_metrics, training_curves


def _part(*shape: int, classes: int = 10, spread: float = 1.0, seed: int = 0) -> PartStatistics:
    generator = torch.Generator().manual_seed(seed)
    means = spread * torch.randn(classes, *shape, generator=generator, dtype=torch.float64)
    return PartStatistics(
        counts=torch.full((classes,), 30),
        class_means=means,
        class_variances=torch.ones(classes, *shape, dtype=torch.float64),
        class_minima=means - 1,
        class_maxima=means + 1,
        mean=means.mean(0),
    )


def _layer(name: str, classes: int = 10, spread: float = 1.0, **parts: tuple[int, ...]) -> LayerCoefficients:
    made = {part: _part(*shape, classes=classes, spread=spread) for part, shape in parts.items()}
    return LayerCoefficients(name=name, kind="DCDConv2d", parts=made)


@pytest.mark.parametrize(
    "parts",
    [
        {"scale": (24,), "fusion": (4, 4)},
        {"scale": (300,), "fusion": (3, 4, 4)},
        {"scale": (24,), "fusion": (5, 5, 2)},
        {"scale": (24,), "fusion": (2, 4, 4, 3)},
        {"scale": (24,)},
        {"fusion": (4, 4)},
        {"attention": (4,)},
    ],
    ids=["square", "blocks", "joint", "joint-blocks", "lambda-only", "phi-only", "attention"],
)
def test_every_form_of_coefficients_is_drawn(parts: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    layers = [_layer("a", spread=0.1, **parts), _layer("b", **parts)]
    assert_drawn(class_coefficients(layers, [str(k) for k in range(10)]), tmp_path / "coefficients.png", width=1200)


@pytest.mark.parametrize("classes", [2, 30])
def test_few_and_many_classes_are_drawn(classes: int, tmp_path: Path) -> None:
    layers = [_layer("a", classes=classes, scale=(9,), fusion=(3, 3))]
    assert_drawn(class_coefficients(layers, [f"kind {k}" for k in range(classes)]), tmp_path / "c.png", width=1200)


def test_the_layer_where_classes_differ_most_is_chosen_among_those_with_every_part() -> None:
    layers = [_layer("low", spread=0.5, scale=(4,), fusion=(2, 2)), _layer("high", scale=(4,), fusion=(2, 2))]
    lambda_only = _layer("extreme", spread=9.0, scale=(4,))
    assert choose_layer([*layers, lambda_only]).name == "high"
    assert choose_layer(layers, "low").name == "low"
    with refuses(ValueError, "middle"):
        choose_layer(layers, "middle")
    with refuses(ValueError, "layers"):
        choose_layer([])


def test_channels_of_every_class_are_shown_also_when_one_class_deviates_far_more() -> None:
    deviations = torch.randn(4, 500, generator=torch.Generator().manual_seed(0))
    deviations[2] *= 100
    kept = figures._channels_to_show(deviations)
    assert len(kept) == len(set(kept)) == figures.MAX_CHANNELS
    typical = deviations.square().mean(1, keepdim=True).sqrt()
    owners = (deviations / typical).abs().argmax(0)[kept]
    assert owners.tolist() == sorted(owners.tolist())
    assert owners.bincount().tolist() == [figures.MAX_CHANNELS // 4] * 4


def test_the_headline_states_the_shares() -> None:
    figure = class_coefficients([_layer("b", scale=(4,), fusion=(2, 2))], [str(k) for k in range(10)])
    texts = [text.get_text() for panel in figure.subfigs for text in panel.texts]
    part = _part(4)
    assert f"Layer b: the class explains {part.share_between:.0%} of Λ" in texts[0]


def test_curves_are_drawn_from_a_metrics_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(
        "epoch,train_loss,val_loss,train_acc,val_acc\n1,2.0,1.9,,0.3\n2,1.0,1.1,0.7,0.6\n", encoding="utf-8"
    )
    columns = read_metrics(path)
    assert columns["val_acc"] == [0.3, 0.6]
    assert columns["train_acc"][0] != columns["train_acc"][0]
    figure = training_curves({"static": columns, "DCD": columns})
    assert "best validation: static 60.0%, DCD 60.0%" in figure.axes[1].get_title(loc="left")
    assert_drawn(figure, tmp_path / "curves.png", width=1200)


def test_a_single_epoch_is_seen_whole() -> None:
    columns = {"epoch": [1.0], "train_loss": [2.0], "val_loss": [1.9], "train_acc": [0.0], "val_acc": [0.3]}
    figure = training_curves({"static": columns})
    figure.draw_without_rendering()
    for axes in figure.axes:
        assert all(line.get_marker() == "o" for line in axes.get_lines())
        assert all(tick == int(tick) for tick in axes.get_xticks())
    assert figure.axes[1].get_ylim()[0] < 0


def test_a_run_without_a_finished_epoch_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,val_loss\n", encoding="utf-8")
    with refuses(ValueError):
        read_metrics(path)
