from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest
import torch
from tests.helpers import LAYERS
from tests.messages import refuses
from torch import Tensor, nn

from dynaconv.explain.coefficients import collect_coefficients
from dynaconv.explain.statistics import MAX_ATTENTION_SAMPLES, QUANTILE_LEVELS, NetworkStatistics, collect_statistics
from dynaconv.explain.statistics_measures import binary_entropy, gate_limit, measure, normalised_entropy
from dynaconv.families import CondConv2d, DCDConv2d, DYConv2d, SEConv2d

NAMES = ("a", "b", "c")


def _data(channels: int = 6, count: int = 21) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    classes = torch.arange(count) % 3
    return torch.randn(count, channels, 5, 4, generator=generator) + classes[:, None, None, None], classes


def _statistics(*layers: nn.Module, size: int = 7) -> NetworkStatistics:
    images, classes = _data()
    batches = list(zip(images.split(size), classes.split(size), strict=True))
    return collect_statistics(nn.Sequential(*layers), batches, NAMES)


def _spread(layer: nn.Module, strength: float = 3.0) -> nn.Module:
    """Larger weights everywhere, so that attention depends on the input."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(strength)
    return layer


@pytest.mark.parametrize("family", sorted(LAYERS))
def test_every_family_has_statistics_that_equal_those_of_its_coefficients(family: str) -> None:
    layer = LAYERS[family](6, 8, 3, padding=1).eval()
    images, classes = _data()
    for size in (1, 21):
        (found,) = _statistics(layer, size=size).layers
        with torch.no_grad():
            parts = {k: v for k, v in layer.coefficients(images)._asdict().items() if v is not None}
        assert list(found.parts) == list(parts)
        for name, values in parts.items():
            report, exact = found.parts[name], values.double().numpy()
            assert report.mean == pytest.approx(exact.mean(), rel=1e-5)
            assert report.deviation == pytest.approx(np.sqrt(exact.var(0).mean()), rel=1e-4, abs=1e-7)
            assert (report.minimum, report.maximum) == pytest.approx((exact.min(), exact.max()), rel=1e-5)
            np.testing.assert_allclose(report.quantiles, np.quantile(exact, QUANTILE_LEVELS), rtol=1e-5, atol=1e-6)
        (plain,) = collect_coefficients(nn.Sequential(layer), [(images, classes)], num_classes=3)
        for name, part in plain.parts.items():
            assert found.coefficients.parts[name].share_between == pytest.approx(part.share_between, abs=1e-6)


def test_softmax_attention_by_its_definition() -> None:
    layer = _spread(DYConv2d(6, 8, 1))
    (found,) = _statistics(layer).layers
    use = found.kernels
    assert use is not None
    with torch.no_grad():
        pi = layer.coefficients(_data()[0]).attention.double().numpy()
    mean = pi.mean(0)
    entropy = -(pi * np.log(pi)).sum(1).mean() / math.log(4)
    np.testing.assert_allclose(use.usage, mean, rtol=1e-6)
    assert use.entropy == pytest.approx(entropy, rel=1e-6)
    assert use.usage_entropy == pytest.approx(-(mean * np.log(mean)).sum() / math.log(4), rel=1e-6)
    assert use.dependence == pytest.approx(use.usage_entropy - entropy, rel=1e-5)
    assert use.dependence > 0.01
    assert use.effective_kernels == pytest.approx(math.exp(-(mean * np.log(mean)).sum()), rel=1e-6)
    assert use.binary_entropy is None
    np.testing.assert_allclose(use.largest, np.bincount(pi.argmax(1), minlength=4) / 21)
    assert found.samples is not None
    np.testing.assert_allclose(found.samples, pi, rtol=1e-5)


def test_sigmoid_attention_by_its_definition() -> None:
    layer = _spread(CondConv2d(6, 8, 1))
    use = _statistics(layer).layers[0].kernels
    assert use is not None
    with torch.no_grad():
        a = layer.coefficients(_data()[0]).attention.double().numpy()
    p = a / a.sum(1, keepdims=True)
    np.testing.assert_allclose(use.usage, p.mean(0), rtol=1e-5)
    assert use.entropy == pytest.approx(-(p * np.log(p)).sum(1).mean() / math.log(8), rel=1e-5)
    yes_no = -(a * np.log2(a) + (1 - a) * np.log2(1 - a))
    assert use.binary_entropy == pytest.approx(yes_no.mean(), rel=1e-4)


def test_entropies_at_their_ends() -> None:
    one, even = torch.tensor([0.0, 1.0, 0.0]), torch.full((3,), 1 / 3)
    assert normalised_entropy(torch.stack([one, even])).tolist() == pytest.approx([0, 1])
    assert normalised_entropy(torch.ones(2, 1)).tolist() == [0, 0]
    assert binary_entropy(torch.tensor([0.0, 0.5, 1.0])).tolist() == [0, 1, 0]


def test_one_kernel_for_each_input_is_all_dependence_and_a_constant_is_none() -> None:
    class Switch(nn.Module):
        def __init__(self, weights: Tensor) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))
            self.weights = weights

        def coefficients(self, x: Tensor) -> object:
            made = DYConv2d(6, 6, 1).coefficients(x)
            return made._replace(attention=self.weights[x.mean(dim=(1, 2, 3)).round().long().clamp(0, 2)])

        def forward(self, x: Tensor) -> Tensor:
            self.coefficients(x)
            return x

    images = torch.arange(3.0).repeat(4)[:, None, None, None].expand(-1, 6, 2, 2)
    batch = [(images, torch.arange(12) % 3)]
    switching = collect_statistics(Switch(torch.eye(3)), batch, NAMES).layers[0]
    assert switching.kernels is not None
    assert (switching.kernels.entropy, switching.kernels.dependence) == pytest.approx((0, 1))
    assert switching.parts["attention"].values.share_between == pytest.approx(1)
    same = collect_statistics(Switch(torch.tensor([[0.98, 0.01, 0.01]]).expand(3, 3)), batch, NAMES)
    use = same.layers[0].kernels
    assert use is not None
    assert use.dependence == pytest.approx(0, abs=1e-6)
    assert use.unused == (1, 2)
    assert same.layers[0].parts["attention"].still


def test_gates_at_their_ends_are_counted() -> None:
    values = torch.tensor([[0.0, 0.04, 1.0, 1.97], [1.0, 1.0, 1.0, 1.0]])
    assert measure(values, "gate", 2.0)["near_zero"].tolist() == [0.5, 0]
    assert measure(values, "gate", 2.0)["saturated"].tolist() == [0.25, 0]
    assert list(measure(values, "gate")) == ["near_zero"]
    assert measure(values.reshape(2, 2, 2), "matrix")["norm"].tolist() == pytest.approx(values.norm(dim=1).tolist())
    assert gate_limit(DCDConv2d(4, 4, 1, scale_activation="linear"), "scale") is None
    assert gate_limit(DCDConv2d(4, 4, 1), "scale") == 2
    assert gate_limit(SEConv2d(4, 4, 1), "scale") == 1


def test_a_few_samples_of_attention_are_kept_whatever_the_data() -> None:
    images = torch.randn(MAX_ATTENTION_SAMPLES + 30, 6, 1, 1)
    batches = [(part, torch.zeros(len(part), dtype=torch.long)) for part in images.split(200)]
    (found,) = collect_statistics(nn.Sequential(DYConv2d(6, 8, 1)), batches, NAMES).layers
    assert found.samples is not None
    assert found.samples.shape == (MAX_ATTENTION_SAMPLES, 4)


def test_rows_json_and_table_agree(toy: nn.Sequential, labelled: tuple[Tensor, Tensor]) -> None:
    statistics = collect_statistics(toy, [labelled], (*NAMES, "nobody"))
    rows = statistics.rows()
    assert len(rows) == 2 * 2 * 5
    read = list(csv.DictReader(io.StringIO(statistics.to_csv())))
    assert [row["class"] for row in read[:5]] == ["(all)", *NAMES, "nobody"]
    assert (read[4]["images"], read[4]["mean"]) == ("0", "")
    assert float(read[0]["mean"]) == statistics.layers[0].parts["scale"].mean
    weighted = sum(float(row["mean"]) * int(row["images"]) for row in read[1:4]) / 37
    assert weighted == pytest.approx(float(read[0]["mean"]))
    written = json.loads(json.dumps(statistics.to_dict(), allow_nan=False))
    assert written["layers"][1]["parts"]["fusion"]["measures"]["norm"] > 0
    assert written["layers"][0]["kernels"] is None
    assert written["layers"][0]["parts"]["scale"]["classes"]["b"]["mean"] == float(read[2]["mean"])
    assert statistics.table().row_count == 4


def test_what_cannot_be_collected_is_refused(toy: nn.Sequential, labelled: tuple[Tensor, Tensor]) -> None:
    with refuses(ValueError):
        collect_statistics(nn.Conv2d(4, 4, 1), [labelled], NAMES)
    with refuses(ValueError):
        collect_statistics(toy, [], NAMES)
    with refuses(ValueError):
        collect_statistics(toy, [labelled], NAMES[:2])
