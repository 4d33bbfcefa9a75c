"""`dynaconv analyze` on small networks: what it finds, the report it writes, and one sentence for every mistake."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from tests.train.helpers import DIGITS, write_folder
from timm.models import register_model
from torch import Tensor, nn

from dynaconv.cli import main
from dynaconv.explain.analyze.decompose import choose_mixture, decompose, mixture_detail
from dynaconv.explain.analyze.result import analyze_network
from dynaconv.explain.statistics import collect_statistics
from dynaconv.explain.suppression import measure_suppression
from dynaconv.families import CondConv2d, DCDConv2d, DYConv2d, ODConv2d, SEConv2d
from dynaconv.train.checkpoint import save_trained

NAMES = [str(digit) for digit in range(10)]
METADATA = {**DIGITS, "image_size": 8, "mean": [0.3], "std": [0.35]}


class TinyNet(nn.Module):
    """A stem, two dynamic layers and a classifier."""

    def __init__(self, make: Callable[..., nn.Module], num_classes: int = 10, in_chans: int = 1, **_: Any) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_chans, 6, 3, 2, 1)
        self.first = make(6, 8, 3, padding=1)
        self.second = make(8, 12, 1)
        self.head = nn.Linear(12, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(self.stem(x).relu()).relu())
        return self.head(x.relu().mean(dim=(2, 3)))


MAKERS: dict[str, Callable[..., nn.Module]] = {
    "dyconv": DYConv2d,
    "condconv": CondConv2d,
    "dcd": DCDConv2d,
    "odconv": ODConv2d,
    "se": SEConv2d,
    "static": nn.Conv2d,
}


@pytest.fixture(scope="module", autouse=True)
def _tiny_models() -> None:
    """Register the networks with timm, as a user's own would be."""
    for family, make in MAKERS.items():

        def entrypoint(pretrained: bool = False, make: Callable[..., nn.Module] = make, **options: Any) -> nn.Module:
            return TinyNet(make, **options)

        entrypoint.__name__ = f"tinynet_{family}"
        entrypoint.__module__ = __name__
        if not timm.is_model(entrypoint.__name__):
            register_model(entrypoint)


def _checkpoint(folder: Path, family: str, **metadata: Any) -> str:
    torch.manual_seed(0)
    model = TinyNet(MAKERS[family])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "branch" in name:
                parameter.mul_(3)
    path = folder / f"{family}.safetensors"
    save_trained(path, model, {**METADATA, "model": f"tinynet_{family}", **metadata})
    return str(path)


def _refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    code = main(["analyze", *argv])
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.startswith("dynaconv: ")
    assert error.count("\n") == 1
    return error


def _batches(count: int = 24) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(4)
    return [(torch.randn(count, 1, 8, 8), torch.arange(count) % 10)]


def test_the_report_holds_everything_and_fetches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, numbers = tmp_path / "report.html", tmp_path / "numbers.json"
    runs = [_checkpoint(tmp_path, family) for family in ("dyconv", "dcd")]
    options = ["--images", "50", "--batch-size", "20", "--device", "cpu", "--json", str(numbers)]
    assert main(["analyze", *runs, "--out", str(out), *options]) == 0
    html = out.read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)="(?!data:|#)', html)
    assert html.count("data:image/png") == 9
    for said in ("tinynet_dyconv", "tinynet_dcd", "kernels taken apart", " in detail", "Seed", "50"):
        assert said in html
    written = json.loads(numbers.read_text())
    assert [network["statistics"]["images"] for network in written["networks"]] == [50, 50]
    dyconv, dcd = written["networks"]
    assert dyconv["suppression"]["batches"] == 3
    assert dcd["decompositions"] == []
    # The finding comes first: how far the kernels move, and what freezing them costs.
    for network in (dyconv, dcd):
        layers, frozen = network["freezing"]["layers"], network["freezing"]["all"]
        movement = sum(layer["movement"] for layer in layers) / len(layers)
        finding = (
            f"Its kernels lie {movement:.1%} of their length away from their mean. Freezing all of them at that mean"
        )
        assert finding in html[: html.index("<nav")]
        assert f"changes {frozen['changed'] / 50:.1%} of the predictions" in html
    assert html.index("which layers need to be dynamic") < html.index("what each layer computes")
    printed = capsys.readouterr().out
    assert f"{dyconv['suppression']['own_correlation']:+.2f}" in printed
    assert f"{dyconv['accuracy']:.1%}" in printed


@pytest.mark.parametrize("family", ["condconv", "odconv", "se"])
def test_every_family_gets_a_report(family: str, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    run = _checkpoint(tmp_path, family)
    argv = ["analyze", run, "--out", str(out), "--images", "30", "--layer", "second", "--device", "cpu"]
    assert main(argv) == 0
    html = out.read_text(encoding="utf-8")
    assert ("kernels taken apart" in html.lower()) == (family == "condconv")
    assert ("has no layer with factors to measure" in html) == (family != "condconv")


def test_the_images_are_drawn_from_all_classes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images")
    run = _checkpoint(tmp_path, "dcd", num_classes=10)
    model = TinyNet(DCDConv2d, num_classes=2, in_chans=3)
    facts = {"model": "tinynet_dcd", "num_classes": 2, "in_channels": 3, "class_names": ["dark", "light"]}
    norm = {"mean": [0.3] * 3, "std": [0.35] * 3, "data": {"name": str(folder)}}
    save_trained(Path(run), model, {**METADATA, **facts, **norm})
    numbers = tmp_path / "numbers.json"
    out = str(tmp_path / "report.html")
    assert main(["analyze", run, "--out", out, "--images", "6", "--device", "cpu", "--json", str(numbers)]) == 0
    part = json.loads(numbers.read_text())["networks"][0]["statistics"]["layers"][0]["parts"]["scale"]
    counts = {name: found["images"] for name, found in part["classes"].items()}
    assert sum(counts.values()) == 6
    assert all(counts.values())


def test_mistakes_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "report.html")]
    static, dcd = _checkpoint(tmp_path, "static"), _checkpoint(tmp_path, "dcd")
    assert "tinynet_static has no dynamic layer to analyse; give a run" in _refused(capsys, static, *out)
    assert "no dynamic layer 'secnd'; the nearest names are second" in _refused(capsys, dcd, *out, "--layer", "secnd")
    assert "there is no checkpoint" in _refused(capsys, str(tmp_path / "missing"), *out)
    assert "cannot write" in _refused(capsys, dcd, "--out", str(tmp_path / "none" / "report.html"))
    assert "cannot write" in _refused(capsys, dcd, "--out", str(tmp_path))
    assert "--images must be an integer from 1 to" in _refused(capsys, dcd, *out, "--images", "0")
    assert "the following arguments are required" in _refused(capsys, dcd)
    assert "no device" in _refused(capsys, dcd, *out, "--device", "moon")
    assert "class" in _refused(capsys, _checkpoint(tmp_path, "dcd", class_names=list("abcdefghij")), *out)
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    assert "did not write" in _refused(capsys, str(tmp_path / "foreign.safetensors"), *out)
    broken = TinyNet(DYConv2d)
    with torch.no_grad():
        broken.first.weight[0, 0] = torch.nan
    save_trained(Path(dcd), broken, {**METADATA, "model": "tinynet_dyconv"})
    assert "NaN" in _refused(capsys, dcd, *out)
    assert not (tmp_path / "report.html").exists()
    (tmp_path / "report.html").write_text("mine")
    assert "report.html exists; pass --overwrite to replace it" in _refused(capsys, str(tmp_path / "missing"), *out)


def test_the_summary_of_a_mixture_by_hand() -> None:
    torch.manual_seed(0)
    model = TinyNet(DYConv2d).eval()
    batches = _batches()
    statistics = collect_statistics(model, batches, NAMES)
    first, second = decompose(model, statistics)
    with torch.no_grad():
        x = model.stem(batches[0][0]).relu()
        kernels = model.first.kernel(x).flatten(1)
        mean = model.first.weight.mean(0).flatten()
    share = ((kernels - mean).square().sum(1) / kernels.square().sum(1)).median()
    assert first.energy_share == pytest.approx(float(share), rel=1e-4)
    residuals = (model.first.weight - model.first.weight.mean(0)).detach().double().flatten(2)
    values = torch.linalg.svdvals(residuals.transpose(0, 1).flatten(1))
    shares = values / values.sum()
    assert first.effective_rank == pytest.approx(float(torch.special.entr(shares).sum().exp()), rel=1e-6)
    assert (first.outputs, second.outputs, first.shape) == (8, 12, (4, 8, 6, 3, 3))
    assert choose_mixture([first, second], "second") is second
    assert choose_mixture([first, second]) is max((first, second), key=lambda layer: layer.energy_share)
    assert choose_mixture([]) is None


def test_the_detail_of_a_mixture_fits_dcd_with_and_without_lambda() -> None:
    torch.manual_seed(0)
    model = TinyNet(DYConv2d).eval()
    statistics = collect_statistics(model, _batches(), NAMES)
    first, _ = decompose(model, statistics)
    attention = statistics.layers[0].samples
    assert attention is not None
    detail = mixture_detail(model, first, attention)
    assert [curve.scale for curve in detail.curves] == [True, False]
    for curve in detail.curves:
        assert curve.latent_dims[0] == 0
        assert max(curve.latent_dims) <= 8
        assert list(curve.errors) == sorted(curve.errors, reverse=True)
    assert detail.curves[1].errors[0] == pytest.approx(detail.curves[1].static_error)


def test_an_analysis_takes_the_known_decompositions_for_the_gradients() -> None:
    torch.manual_seed(0)
    model = TinyNet(CondConv2d).eval()
    found = analyze_network(model, _batches(), NAMES, title="a", name="b", accuracy=0.5)
    alone = measure_suppression(model, _batches())
    assert found.suppression is not None
    for mine, other in zip(found.suppression.layers, alone.layers, strict=True):
        torch.testing.assert_close(mine.outputs.gradients, other.outputs.gradients)
