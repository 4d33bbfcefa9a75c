"""ExecuTorch programs; those that need executorch are skipped without it."""

from pathlib import Path

import pytest
import torch
from torch import nn

from dynaconv.errors import ExportError
from dynaconv.export.executorch import _traced, export_executorch
from dynaconv.export.verify import LIMIT
from tests.families.cases import enlarge
from tests.helpers import LAYERS
from tests.messages import refuses

IMAGES = torch.randn(1, 3, 9, 7)


def network(family: str = "dcd") -> nn.Module:
    layer = LAYERS[family](4, 6, 3, padding=1)
    # A fresh branch hardly shows in the output.
    enlarge(layer)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), layer, nn.Flatten(), nn.Linear(378, 5))


@pytest.mark.parametrize("max_batch", [0, -1, 2.0, True])
def test_max_batch_is_checked(max_batch: int, tmp_path: Path) -> None:
    with refuses(ExportError, "max_batch"):
        export_executorch(network(), tmp_path / "net.pte", IMAGES, max_batch=max_batch)


@pytest.mark.parametrize("max_batch", [2, 16, 20])
def test_traced_batch_reaches_from_one_to_the_bound(max_batch: int) -> None:
    program = _traced(network().eval(), (IMAGES,), max_batch)
    (bounds,) = program.range_constraints.values()
    assert bounds.lower == 1
    assert bounds.upper >= max_batch
    means = [node for node in program.graph.nodes if node.target == torch.ops.aten.mean.dim]
    assert means
    assert not any(node.kwargs for node in means)


@pytest.mark.export
@pytest.mark.parametrize("family", LAYERS)
def test_every_family_computes_the_same_at_every_batch(family: str, tmp_path: Path) -> None:
    pytest.importorskip("executorch.runtime")
    model = network(family).train()
    report = export_executorch(model, tmp_path / "net.pte", IMAGES, max_batch=4)
    assert report.batches == (1, 3, 4)
    assert report.difference <= LIMIT
    assert report.free_axes == ("batch",)
    assert report.path.stat().st_size == report.size > 1000
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.export
@pytest.mark.parametrize("max_batch", [1, 2, 16])
def test_bounds_at_which_torch_specialises(max_batch: int, tmp_path: Path) -> None:
    pytest.importorskip("executorch.runtime")
    report = export_executorch(network("se"), tmp_path / "net.pte", IMAGES, max_batch=max_batch)
    assert report.batches[-1] == max_batch


@pytest.mark.export
def test_what_differs_is_refused_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = pytest.importorskip("executorch.runtime")
    execute = runtime.Method.execute
    monkeypatch.setattr(runtime.Method, "execute", lambda self, given: [1.01 * out for out in execute(self, given)])
    with pytest.raises(ExportError, match="differs from the network"):
        export_executorch(network("se"), tmp_path / "net.pte", IMAGES)
    assert not any(tmp_path.iterdir())
