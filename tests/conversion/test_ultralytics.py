"""A YOLO from ultralytics, converted: its own folding, training loop and export go on working.

That package is under the AGPL, is no dependency, and nothing outside this file imports it.
"""

import copy
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynaconv import convert, plan_conversion, revert
from dynaconv.families import DynamicConv2d

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
if importlib.util.find_spec("ultralytics") is None:
    pytest.skip("ultralytics is not installed", allow_module_level=True)
NAME = "yolo11n.yaml"


def outputs(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(images)[0]
    return found


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max())


@pytest.fixture
def yolo() -> Any:
    # Here, because the package patches others when it is imported, and this file is read for every run of tests.
    from ultralytics import YOLO

    torch.manual_seed(0)
    model = YOLO(NAME)
    model.model.train()
    for _ in range(3):
        model.model(torch.rand(2, 3, 64, 64))
    model.model.eval()
    return model


@pytest.mark.parametrize("family", ["dcd", "dyconv"])
def test_function_fold_and_way_back(family: str, yolo: Any) -> None:
    images = torch.rand(2, 3, 64, 64)
    before = outputs(yolo.model, images)
    dynamic = convert(yolo.model, family)
    assert relative(outputs(dynamic, images), before) < 1e-5
    reasons = {layer.name: layer.reason for layer in plan_conversion(yolo.model, family).layers}
    assert reasons["model.23.dfl.conv"] == "a fixed weighted sum of channels"
    static = revert(dynamic)
    assert list(static.state_dict()) == list(yolo.model.state_dict())
    assert relative(outputs(static, images), before) < 1e-5
    with torch.no_grad():
        for parameter in dynamic.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    moved = outputs(dynamic, images)
    assert relative(moved, before) > 1e-3
    folded = copy.deepcopy(dynamic).fuse(verbose=False)
    assert folded.is_fused()
    assert relative(outputs(folded, images), moved) < 1e-5


def squares(folder: Path, count: int) -> Path:
    """A data set of bright squares on noise, in ultralytics' format."""
    from PIL import Image

    random = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        picture = random.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        x, y, side = *random.integers(4, 36, 2), 20
        picture[y : y + side, x : x + side] = 220
        Image.fromarray(picture).save(folder / "images" / f"{number}.png")
        box = f"0 {(x + side / 2) / 64} {(y + side / 2) / 64} {side / 64} {side / 64}\n"
        (folder / "labels" / f"{number}.txt").write_text(box)
    file = folder / "data.yaml"
    file.write_text(f"path: {folder}\ntrain: images\nval: images\nnames: {{0: square}}\n")
    return file


def test_training_loop_and_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer builds its own network; a subclass converts that, as docs/convert.md shows."""
    from ultralytics import YOLO
    from ultralytics.models.yolo.detect import DetectionTrainer

    class Dynamic(DetectionTrainer):  # type: ignore[misc]
        def get_model(self, *args: Any, **kwargs: Any) -> torch.nn.Module:
            return convert(super().get_model(*args, **kwargs), exclude="model.23.*")

    monkeypatch.chdir(tmp_path)
    data = squares(tmp_path / "squares", 16)
    model = YOLO(NAME)
    model.train(
        trainer=Dynamic,
        data=str(data),
        epochs=1,
        imgsz=64,
        batch=8,
        workers=0,
        device="cpu",
        amp=False,
        plots=False,
        project=str(tmp_path / "runs"),
        verbose=False,
    )
    best = YOLO(next((tmp_path / "runs").rglob("best.pt")))
    layers = [module for module in best.model.modules() if isinstance(module, DynamicConv2d)]
    assert len(layers) > 20
    assert not all(layer.is_neutral for layer in layers)
    file = Path(best.export(format="onnx", imgsz=64, dynamic=True, simplify=False, device="cpu"))
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for batch in (1, 2, 7):
        images = torch.rand(batch, 3, 64, 64)
        (got,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        assert relative(torch.from_numpy(got), outputs(best.model.float(), images)) < 1e-4
