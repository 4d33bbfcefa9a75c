"""The picture of a run."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from dynaconv.train.curves import draw_curves


def test_a_single_epoch_has_whole_ticks_and_accuracy_in_per_cent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *given: object, **options: object) -> None:
        drawn.append(self)
        save(self, *given, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    row = {"epoch": 1, "train_loss": 2.0, "val_loss": "", "train_acc": 0.25, "val_acc": ""}
    draw_curves(tmp_path / "curves.png", [row], title="m on d")
    loss, accuracy = drawn[0].axes
    assert all(tick == int(tick) for axes in (loss, accuracy) for tick in axes.get_xticks())
    assert all(label.get_text().endswith("%") for label in accuracy.get_yticklabels())
