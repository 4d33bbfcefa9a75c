"""The compatibility table: its checks find what is wrong, and its page says what was not run."""

import dataclasses
import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.messages import refuses
from torch import Tensor, nn

from dynaconv import convert
from dynaconv.families import families

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


class TwoConvolutions(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )


class FixedBatch(TwoConvolutions):
    """Only the batch that it is exported with can be run."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x)
        return torch.stack([y[n] for n in range(y.shape[0])])


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = ("networks", "checks", "page", "store")
    modules = {name: importlib.import_module(f"_compatibility_{name}") for name in names}
    return SimpleNamespace(**modules, main=importlib.import_module("compatibility"))


def network(script: SimpleNamespace, build: type[nn.Module] = TwoConvolutions) -> object:
    return script.networks.Network(library="ours", name="two", size=16, build=build)


@pytest.mark.export
def test_all_steps_pass_on_a_small_network(script: SimpleNamespace) -> None:
    outcome = script.checks.check(network(script), "dcd")
    assert outcome.errors == {}
    assert (outcome.converted, outcome.convolutions, outcome.reached, outcome.varying) == (1, 2, 1, 1)
    assert outcome.difference < 1e-6
    assert outcome.exact_difference < 1e-14
    assert len(outcome.onnxruntime) == len(outcome.openvino) == 3
    assert max(outcome.onnxruntime + outcome.openvino) < script.checks.LIMIT


def test_a_batch_that_is_not_free_is_a_failure(script: SimpleNamespace) -> None:
    outcome = script.checks.check(network(script, FixedBatch), "static")
    assert list(outcome.errors) == ["export"]
    assert outcome.onnxruntime is None


def test_images_and_features_tell_samples_apart(script: SimpleNamespace) -> None:
    mine = network(script)
    torch.manual_seed(0)
    model = script.checks.prepared(mine)
    with torch.no_grad():
        (output,) = script.networks.flat(model(script.checks.images(mine, 7, 0)))
    assert (output.std(0) / output.abs().mean()).mean() > 0.05


def test_a_neutral_network_does_not_count_as_varying(script: SimpleNamespace) -> None:
    mine = network(script)
    torch.manual_seed(0)
    dynamic = convert(script.checks.prepared(mine), "dcd")
    layers = [dynamic.get_submodule("3")]
    assert script.checks._varying(mine, dynamic, layers) == 0


def test_what_starts_from_zero_is_not_left_hidden(script: SimpleNamespace) -> None:
    def build() -> nn.Module:
        model = TwoConvolutions()
        nn.init.zeros_(model[1].weight)
        return model

    assert script.checks.prepared(network(script, build))[1].weight.min() >= 0.5


def test_a_comparison_of_zeros_or_of_other_shapes_never_passes(script: SimpleNamespace) -> None:
    difference = script.checks.relative_difference
    assert difference([torch.ones(2)], [torch.ones(2)]) == 0
    assert difference([torch.ones(2)], [torch.ones(3)]) == float("inf")
    assert difference([], []) == float("inf")
    with refuses(RuntimeError):
        difference([torch.zeros(2)], [torch.zeros(2)])
    with refuses(RuntimeError):
        difference([torch.ones(2)], [torch.full((2,), torch.nan)])
    assert not difference([torch.full((2,), torch.nan)], [torch.ones(2)]) <= 1


def test_the_page_says_what_failed_and_what_was_not_run(script: SimpleNamespace, tmp_path: Path) -> None:
    mine = network(script)
    base = script.checks.Outcome(network="two", library="ours", family="dcd", size=16, converted=1, convolutions=2)
    good = dataclasses.replace(
        base,
        difference=1e-7,
        reached=1,
        varying=1,
        loss=[1.0, 0.5],
        onnxruntime=[2e-7] * 3,
        openvino=[1e-6, 3e-7, 1e-7],
    )
    bad = dataclasses.replace(good, family="odconv", onnxruntime=None, openvino=None, errors={"export": "no way"})
    static = dataclasses.replace(bad, family="static", converted=None, errors={"export": "nor this"})
    page = tmp_path / "page.md"
    script.page.write_page(page, [mine], {each.key: each for each in (good, bad, static)})
    text = page.read_text()
    cells = dict.fromkeys(script.page.FAMILIES, "not run") | {"dcd": "2.0e-07 / 1.0e-06", "odconv": "failed / failed"}
    assert set(cells) == {family.name for family in families()}
    assert f"| ours two | {' | '.join(cells.values())} |" in text
    assert "- ours two, ODConv: export: `no way`. **The static network does not either**: `nor this`." in text


def test_a_family_without_layers_for_a_network_is_not_counted(script: SimpleNamespace, tmp_path: Path) -> None:
    mine = network(script)
    outcome = script.checks.check(mine, "fdconv")
    assert (outcome.converted, outcome.loss, outcome.errors) == (0, None, {})
    page = tmp_path / "page.md"
    script.page.write_page(page, [mine], {outcome.key: outcome})
    text = page.read_text()
    assert "failed" not in text
    assert "| FDConv | not run |" in text


def test_results_read_back_as_they_were_written(script: SimpleNamespace, tmp_path: Path) -> None:
    first = script.checks.Outcome(network="two", library="ours", family="dcd", size=16, exported=True, loss=[1.5, 0.5])
    first.errors, first.versions, first.difference = {"export": 'a: "b"; c, d\n'}, "torch 2, Python 3.11", 1e-7
    second = script.checks.Outcome(network="two", library="ours", family="static", size=16, converted=3)
    table = tmp_path / "data" / "table.csv"
    script.store.write(table, [first, second])
    assert script.store.read(table) == {("ours/two", "dcd"): first, ("ours/two", "static"): second}
    assert script.store.read(tmp_path / "none.csv") == {}


def test_a_result_without_an_export_keeps_the_earlier_export(script: SimpleNamespace) -> None:
    first = script.checks.Outcome(network="two", library="ours", family="dcd", size=16, exported=True)
    first.onnxruntime = [1e-7, 1e-7, 1e-7]
    second = dataclasses.replace(first, exported=False, onnxruntime=None, exact_difference=1e-15)
    assert script.store.merged(first, second) == dataclasses.replace(first, exact_difference=1e-15)
    assert script.store.merged(None, second) == second
    assert script.store.merged(second, first) == first


def test_every_network_has_its_own_name(script: SimpleNamespace) -> None:
    keys = [each.key for each in script.networks.networks()]
    assert len(keys) == len(set(keys)) >= 40
