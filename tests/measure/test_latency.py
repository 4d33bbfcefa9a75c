from __future__ import annotations

import itertools

import pytest
import torch
from tests.messages import refuses
from torch import Tensor, nn

from dynaconv.measure.latency import measure_latency


class _Spy(nn.Module):
    """Notes each call, and whether gradients and training were off."""

    def __init__(self, name: str, calls: list[str], inference: list[bool]) -> None:
        super().__init__()
        self.name, self.calls, self.inference = name, calls, inference

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(self.name)
        self.inference.append(torch.is_inference_mode_enabled() and not self.training)
        return x


def test_models_alternate_and_run_in_inference_mode() -> None:
    calls: list[str] = []
    inference: list[bool] = []
    models = {name: _Spy(name, calls, inference).train() for name in "ab"}
    measure_latency(models, (1, 4, 4), rounds=4, warmup=1)
    assert "".join(calls) == "ba" + "ab" + "ba" + "ab" + "ba"
    assert all(inference)
    assert all(model.training for model in models.values())


def test_medians_and_ratios_are_those_of_the_clock() -> None:
    # Seconds that passes take, in the order they run: a b, b a, a b.
    passes = [0.010, 0.030, 0.060, 0.020, 0.040, 0.040]
    ticks = iter([tick for duration in passes for tick in (0.0, duration)])
    calls: list[str] = []
    models = {name: _Spy(name, calls, []) for name in "ab"}
    found = measure_latency(models, (2, 1, 4, 4), rounds=3, warmup=0, clock=lambda: next(ticks))
    assert found["a"].median_ms == pytest.approx(20)
    assert found["b"].median_ms == pytest.approx(40)
    assert found["a"].ratio == 1
    assert found["b"].ratio == pytest.approx(3)
    assert found["a"].spread_ms == pytest.approx(7.5)


def test_conditions_name_everything_a_reader_needs() -> None:
    found = measure_latency({"one": nn.Conv2d(3, 2, 3)}, (2, 3, 9, 5), rounds=1, warmup=0)
    for part in ("batch 2", "3 x 9 x 5", "cpu", f"{torch.get_num_threads()} thread", f"torch {torch.__version__}"):
        assert part in found.conditions
    assert found.table().row_count == 1


def test_unknown_names_and_bad_arguments_are_refused() -> None:
    model = nn.Identity()
    with refuses(ValueError, "models"):
        measure_latency({}, (1, 4, 4))
    with refuses(ValueError, "rounds"):
        measure_latency({"a": model}, (1, 4, 4), rounds=0)
    with refuses(ValueError, "input_size"):
        measure_latency({"a": model}, (4, 4))
    ticks = itertools.count()
    found = measure_latency({"a": model}, (1, 4, 4), rounds=1, clock=lambda: float(next(ticks)))
    with refuses(KeyError, "'b'"):
        found["b"]
