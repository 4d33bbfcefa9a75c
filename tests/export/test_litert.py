"""LiteRT models; those that need litert-torch are skipped without it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dynaconv.errors import ExportError
from dynaconv.export.litert import export_litert
from dynaconv.export.verify import LIMIT
from tests.families.cases import enlarge
from tests.helpers import LAYERS
from tests.messages import refuses

IMAGES = torch.randn(2, 3, 9, 7)


class TwoOutputs(nn.Module):
    def __init__(self, family: str) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.layer = LAYERS[family](4, 6, 3, padding=1)
        # A fresh branch hardly shows in the output.
        enlarge(self.layer)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.layer(self.stem(images))
        return {"features": features, "pooled": features.mean((2, 3))}


@pytest.mark.parametrize("batches", [(), (0,), (1, 2.0), (True,)], ids=str)
def test_batches_are_checked(batches: tuple[int, ...], tmp_path: Path) -> None:
    with refuses(ExportError):
        export_litert(TwoOutputs("dcd"), tmp_path / "net.tflite", IMAGES, batches=batches)


@pytest.mark.export
@pytest.mark.parametrize("family", LAYERS)
def test_every_family_computes_the_same_in_each_signature(
    family: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("litert_torch")
    model = TwoOutputs(family).train()
    batches = (1, 3) if family == "dcd" else (2,)
    report = export_litert(model, tmp_path / "net.tflite", IMAGES, batches=batches)
    assert report.batches == batches
    assert report.difference <= LIMIT
    assert report.free_axes == ()
    assert report.outputs == ("features", "pooled")
    assert all(module.training for module in model.modules())
    assert capfd.readouterr().out == ""


@pytest.mark.export
def test_what_differs_is_refused_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("litert_torch")
    from dynaconv.export import litert

    runner = litert._runner

    def wrong(*given: Any) -> Any:
        run = runner(*given)
        return lambda *inputs: [1.01 * out for out in run(*inputs)]

    monkeypatch.setattr(litert, "_runner", wrong)
    with pytest.raises(ExportError, match="differs from the network"):
        export_litert(TwoOutputs("se"), tmp_path / "net.tflite", IMAGES)
    assert not any(tmp_path.iterdir())
