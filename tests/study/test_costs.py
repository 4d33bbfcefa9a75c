"""What a variant costs: exact counts, and times taken in turns."""

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from dynaconv.deployment import plan_deployment
from dynaconv.native import ready
from dynaconv.study.costs import _trainable_network, _TrainableNetwork, measure_costs, merge_costs, step_peak_bytes
from dynaconv.study.load import load_study
from tests.helpers import count
from tests.study.helpers import write_study


def test_the_peak_of_a_step_by_hand() -> None:
    """A linear layer without bias: its output, the loss's parts and, at the end, the gradients of 400 bytes each."""
    model = nn.Linear(100, 1000, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    subject = _TrainableNetwork(model, optimizer, torch.randn(2, 100), torch.tensor([3, 5]), None)
    gradient, logits = 4 * 100 * 1000, 4 * 2 * 1000
    peak = step_peak_bytes(subject)
    # The gradient of the weight and of the logits and the log-probabilities; the optimiser may hold one more gradient.
    assert gradient + logits <= peak <= 2 * gradient + 4 * logits


def test_every_variant_is_measured_and_equal_ones_once(tmp_path: Path) -> None:
    variants = {"slow": {}, "fast": {"change": {"model.lr": 0.5}}, "small": {"change": {"data.batch_size": 16}}}
    # At 32 pixels the activations outweigh the gradients.
    change = {"trainer.gradient_clip_val": 1.0, "data.image_size": 32}
    study = load_study(write_study(tmp_path / "s.yaml", variants=variants, change=change))
    lines: list[str] = []
    found = measure_costs(study, rounds=2, say=lines.append)
    costs = found["variants"]
    assert costs["fast"] is costs["slow"]
    assert costs["slow"]["parameters"] == count(timm.create_model("test_resnet", num_classes=10, in_chans=1))
    assert costs["small"]["step_peak_bytes"] < costs["slow"]["step_peak_bytes"]
    assert costs["small"]["madds"] == costs["slow"]["madds"] > 0
    assert len(costs["slow"]["step_rounds"]) == 2
    assert len(costs["slow"]["latency_rounds"]) == 31
    assert costs["slow"]["step_seconds"] > 0
    assert ("native_seconds" in costs["slow"]) == ready()
    assert found["conditions"]["batch"] == 32
    assert found["conditions"]["input_size"] == [1, 32, 32]
    assert len(lines) == 3


def test_networks_are_deployed_as_after_training(tmp_path: Path) -> None:
    """The last norm of each residual block starts with a scale of zero, which SE's branch cannot take in."""
    study = load_study(write_study(tmp_path / "s.yaml", change={"model.name": "se_resnet10"}))
    subject = _trainable_network(study.variants["fast"])
    assert not plan_deployment(subject.model.eval(), example=subject.images[:1]).kept


def test_the_reference_is_measured_too(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path / "s.yaml"))
    found = measure_costs(study, ("fast",), rounds=1, say=lambda line: None)
    assert list(found["variants"]) == ["slow", "fast"]
    with pytest.raises(KeyError):
        found["variants"]["other"]


def test_later_costs_join_the_earlier_ones_by_their_ratio_to_the_reference() -> None:
    def cost(seconds: float, parameters: int) -> dict[str, object]:
        return {"parameters": parameters, "step_seconds": seconds, "step_rounds": [seconds, 2 * seconds]}

    earlier = {"conditions": {"rounds": 5}, "variants": {"static": cost(2.0, 10), "dcd": cost(3.0, 11)}}
    found = {
        "conditions": {"rounds": 7},
        "variants": {"static": cost(4.0, 10), "dcd": cost(5.0, 12), "se": cost(6.0, 9)},
    }
    merged = merge_costs(earlier, found, "static")
    assert merged["conditions"] == {"rounds": 5}
    assert merged["variants"] == {"static": cost(2.0, 10), "dcd": cost(2.5, 12), "se": cost(3.0, 9)}
    assert merge_costs({"conditions": {}, "variants": {"dcd": cost(3.0, 11)}}, found, "static") == found
