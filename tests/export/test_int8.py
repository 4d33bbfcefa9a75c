"""Int8 export: accuracy kept, smaller files, a free batch, the dynamic branch in float, and every refusal."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynaconv.errors import ExportError
from tests.messages import refuses, spelled

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

from dynaconv.export.int8 import LOOPS
from dynaconv.export.int8_onnx import quantize_onnx
from dynaconv.export.int8_openvino import quantize_openvino
from dynaconv.export.int8_report import Int8Report
from dynaconv.export.onnx import export_onnx, load_onnx
from dynaconv.export.openvino import export_openvino, load_openvino
from dynaconv.families import DCDConv2d, DCDLinear
from tests.export.int8_networks import batches, stripes, trained_network
from tests.helpers import LAYERS

pytestmark = [pytest.mark.export]

Quantize = Callable[..., Int8Report]
BOTH = pytest.mark.parametrize("runtime", ["onnx", "openvino"])
ONE = pytest.mark.parametrize("runtime", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
"""Where both runtimes run the same code, and a quantisation for OpenVINO takes twenty seconds."""


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return trained_network()


@pytest.fixture(scope="module")
def exported(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("float") / "float.onnx"
    export_onnx(network, path, stripes(2, 0)[0], free_size=False, rewrite=False)
    return path


@pytest.fixture(scope="module")
def calibration() -> list[tuple[Tensor, Tensor]]:
    return batches(*stripes(96, 1))


@pytest.fixture(scope="module")
def written(
    exported: Path, calibration: list[tuple[Tensor, Tensor]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Int8Report]:
    """One int8 network a runtime, with accuracy on images that were not calibrated with."""
    folder = tmp_path_factory.mktemp("int8")
    reports = {}
    for runtime in ("onnx", "openvino"):
        function, suffix = _of(runtime)
        reports[runtime] = function(
            exported, folder / f"int8{suffix}", calibration, subset_size=80, evaluate=batches(*stripes(200, 2))
        )
    return reports


def _of(runtime: str) -> tuple[Quantize, str]:
    return (quantize_onnx, ".onnx") if runtime == "onnx" else (quantize_openvino, ".xml")


def _loaded(report: Int8Report) -> Callable[[Tensor], Any]:
    return load_onnx(report.path) if report.path.suffix == ".onnx" else load_openvino(report.path)


@BOTH
def test_accuracy_is_kept_and_counted_rightly(written: dict[str, Int8Report], network: nn.Module, runtime: str) -> None:
    report = written[runtime]
    images, labels = stripes(200, 2)
    with torch.no_grad():
        want = 100 * float((network(images).argmax(1) == labels).double().mean())
    got = torch.as_tensor(_loaded(report)(images)[0]).argmax(1)
    assert report.before == pytest.approx(want)
    assert report.after == pytest.approx(100 * float((got == labels).double().mean()))
    assert want > 90
    assert report.drop is not None
    assert report.drop <= 1.0
    assert report.agreement is not None
    assert report.agreement >= 98
    assert (report.evaluated, report.calibrated) == (200, 80)


@BOTH
def test_outputs_are_near_but_not_those_of_float(
    written: dict[str, Int8Report], network: nn.Module, runtime: str
) -> None:
    report = written[runtime]
    seen = stripes(96, 1)[0][:80]
    with torch.no_grad():
        want = network(seen).double()
    got = torch.as_tensor(_loaded(report)(seen)[0]).double()
    assert report.error == pytest.approx(float((got - want).norm() / want.norm()), rel=1e-3)
    assert 1e-4 < report.error < 0.1


@BOTH
def test_the_file_is_smaller_and_says_what_is_int8(written: dict[str, Int8Report], runtime: str) -> None:
    report = written[runtime]
    assert report.int8_bytes == sum(file.stat().st_size for file in report.files)
    weights = next(file for file in report.files if file.suffix in (".onnx", ".bin"))
    names = ["int8.onnx"] if runtime == "onnx" else ["int8.xml", "int8.bin"]
    assert [file.name for file in report.files] == names
    # The 22,500 quantised weights shrink by three bytes each; the nodes that convert take some of that.
    assert report.float_bytes - weights.stat().st_size > 2 * 22_500
    # Stem, W0 twice, Q twice and the classifier; each branch has three linear maps, P Phi and the product with it.
    assert (report.quantized, report.products) == (6, 16)
    assert report.kept_float > 20


@BOTH
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_batch_stays_free(written: dict[str, Int8Report], runtime: str, batch: int) -> None:
    run = _loaded(written[runtime])
    images = stripes(7, 3)[0]
    together = torch.as_tensor(run(images[:batch])[0])
    apart = torch.cat([torch.as_tensor(run(image[None])[0]) for image in images[:batch]])
    assert written[runtime].free_batch
    assert together.shape == (batch, 3)
    # The sums over pixels may run in another order, after which a value may fall to the other side of a step.
    assert float((together - apart).abs().max() / apart.abs().max()) < 0.02


@ONE
def test_how_calibration_images_are_grouped_makes_no_difference(exported: Path, tmp_path: Path, runtime: str) -> None:
    function, suffix = _of(runtime)
    images = stripes(12, 5)[0]
    errors = [
        function(exported, tmp_path / f"net{size}{suffix}", batches(images, images, size)).error for size in (1, 12)
    ]
    assert errors[0] == pytest.approx(errors[1], rel=1e-2)


def test_ignored_operations_stay_float(
    exported: Path, calibration: list[tuple[Tensor, Tensor]], tmp_path: Path
) -> None:
    report = quantize_onnx(exported, tmp_path / "net.onnx", calibration, ignored=["4.weight*", "8.*"])
    assert report.quantized == 4
    with pytest.raises(ExportError, match=r"blocks\.\*"):
        quantize_onnx(exported, tmp_path / "other.onnx", calibration, ignored=["blocks.*"])


def _static_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


def test_a_network_is_exported_in_passing(calibration: list[tuple[Tensor, Tensor]], tmp_path: Path) -> None:
    report = quantize_onnx(
        _static_network(), tmp_path / "net.onnx", [images for images, _ in calibration], subset_size=40
    )
    assert (report.calibrated, report.kept_float, report.quantized, report.products) == (40, 0, 2, 2)
    assert [each.name for each in tmp_path.iterdir()] == ["net.onnx"]


def test_nothing_else_is_written_where_shape_inference_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, 2, 1), DCDConv2d(8, 16, 1), nn.ReLU6(), DCDConv2d(16, 16, 3, 2, 1)]
    network, example = nn.Sequential(*layers).eval(), stripes(2, 0)[0]
    export_onnx(network, tmp_path / "float.onnx", example, free_size=True, rewrite=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    report = quantize_onnx(tmp_path / "float.onnx", "net.onnx", [stripes(4, 1)[0]])
    assert [each.name for each in Path().iterdir()] == ["net.onnx"]
    assert report.files == (Path("net.onnx"),)


@BOTH
def test_a_loop_over_samples_is_quantised_and_kept(tmp_path: Path, runtime: str) -> None:
    network = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU6(), LAYERS["dyconv"](8, 16, 3), nn.ReLU6()).eval()
    function, suffix = _of(runtime)
    report = function(network, tmp_path / f"net{suffix}", [stripes(8, 1)[0]])
    assert (report.free_batch, report.batches) == (True, (1, 3))
    # The stem; the branch and the convolution with W(x) are not.
    assert report.quantized == 1
    _check_batch(report, 0)


@BOTH
def test_dcd_is_quantised_without_a_loop(tmp_path: Path, runtime: str) -> None:
    layers = [nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU6(), DCDConv2d(16, 8, 1), DCDConv2d(8, 16, 1), nn.ReLU6()]
    function, suffix = _of(runtime)
    report = function(nn.Sequential(*layers).eval(), tmp_path / f"net{suffix}", [stripes(8, 1)[0]])
    # The stem, W0, Q and P of the layer that narrows; in OpenVINO also the product with W(x), but not that with Phi,
    # whose row for the bias is much larger than the others.
    assert report.quantized == {"onnx": 4, "openvino": 5}[runtime]
    assert report.error < 0.05
    assert not LOOPS.intersection(_operators(report.path))
    _check_batch(report, 0.02)


def _operators(path: Path) -> set[str]:
    if path.suffix == ".onnx":
        return {node.op_type for node in pytest.importorskip("onnx").load(path).graph.node}
    return set(re.findall(r' type="(\w+)"', path.read_text()))


def _check_batch(report: Int8Report, tolerance: float) -> None:
    run, images = _loaded(report), stripes(3, 1)[0]
    together = torch.as_tensor(run(images)[0])
    apart = torch.cat([torch.as_tensor(run(image[None])[0]) for image in images])
    assert float((together - apart).abs().max() / apart.abs().max()) <= tolerance


def test_a_loop_in_openvinos_own_format_is_refused(tmp_path: Path) -> None:
    network = nn.Sequential(DCDConv2d(1, 8, 1), nn.ReLU6()).eval()
    export_openvino(network, tmp_path / "float.xml", stripes(2, 0)[0], free_size=False)
    with refuses(ExportError):
        quantize_openvino(tmp_path / "float.xml", tmp_path / "net.xml", [stripes(4, 1)[0]])


def test_a_fixed_batch_is_kept(tmp_path: Path) -> None:
    export_onnx(_static_network(), tmp_path / "float.onnx", stripes(4, 0)[0], batch=4, free_size=False)
    images, labels = stripes(10, 5)
    report = quantize_onnx(
        tmp_path / "float.onnx", tmp_path / "net.onnx", [images], evaluate=batches(images[:8], labels[:8], 4)
    )
    assert (report.free_batch, report.batches, report.evaluated) == (False, (4,), 8)
    with refuses(ExportError):
        quantize_onnx(tmp_path / "float.onnx", tmp_path / "other.onnx", [images[:3]])
    with refuses(ExportError, "evaluate"):
        quantize_onnx(tmp_path / "float.onnx", tmp_path / "other.onnx", [images], evaluate=[(images, labels)])


def test_the_report_prints_and_serialises(written: dict[str, Int8Report]) -> None:
    report = written["onnx"]
    text = str(report)
    for part in ("6 of 16", f"{report.after:.2f} %", "batch     free", "80 calibration images", "200 images"):
        assert part in text
    assert json.loads(json.dumps(report.to_dict()))["drop"] == report.drop


@ONE
def test_what_is_there_stays_unless_overwritten(
    exported: Path, calibration: list[tuple[Tensor, Tensor]], tmp_path: Path, runtime: str
) -> None:
    function, suffix = _of(runtime)
    target = tmp_path / f"net{suffix}"
    target.write_text("old")
    with refuses(ExportError, "overwrite=True"):
        function(exported, target, calibration)
    assert target.read_text() == "old"
    report = function(exported, target, calibration, subset_size=4, overwrite=True, branch="int8")
    assert target.stat().st_size > 1000
    # With an int8 branch nothing is left out.
    assert (report.quantized, report.products, report.kept_float) == (16, 16, 0)
    assert report.before is None
    assert report.drop is None


def _nan(images: Tensor) -> Tensor:
    return images.index_fill(0, torch.tensor([1]), math.nan)


@BOTH
@pytest.mark.parametrize(
    "loader",
    [
        [],
        [torch.zeros(2, 3, 12, 12)],
        [torch.zeros(12, 12)],
        [torch.zeros(2, 1, 12, 12, dtype=torch.uint8)],
        [{"image": torch.zeros(2, 1, 12, 12)}],
        [_nan(torch.zeros(2, 1, 12, 12))],
    ],
    ids=["empty", "channels", "no channels", "bytes", "dictionary", "nan"],
)
def test_a_bad_calibration_loader_is_refused(exported: Path, tmp_path: Path, loader: list[Any], runtime: str) -> None:
    function, suffix = _of(runtime)
    with refuses(ExportError):
        function(exported, tmp_path / f"net{suffix}", loader)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "loader",
    [
        [],
        [torch.zeros(2, 1, 12, 12)],
        [(torch.zeros(2, 1, 12, 12), torch.zeros(3, dtype=torch.long))],
        [(torch.zeros(2, 1, 12, 12), torch.tensor([0, 3]))],
        [(torch.zeros(2, 1, 9, 12), torch.tensor([0, 2]))],
    ],
    ids=["empty", "no labels", "lengths", "classes", "shape"],
)
def test_a_bad_evaluation_loader_is_refused(
    exported: Path, calibration: list[tuple[Tensor, Tensor]], tmp_path: Path, loader: list[Any]
) -> None:
    with refuses(ExportError):
        quantize_onnx(exported, tmp_path / "net.onnx", calibration, subset_size=4, evaluate=loader)
    assert not list(tmp_path.iterdir())


def test_a_loss_beyond_the_limit_writes_nothing(exported: Path, tmp_path: Path) -> None:
    images, labels = stripes(64, 4)
    # Ranges taken from images a hundred times too weak clip everything.
    with pytest.raises(ExportError, match=r"max_drop=0\.5"):
        quantize_onnx(exported, tmp_path / "net.onnx", [images / 100], evaluate=batches(images, labels), max_drop=0.5)
    assert not list(tmp_path.iterdir())


@ONE
def test_a_network_without_finite_outputs_is_refused(tmp_path: Path, runtime: str) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.log(x.flatten(1) - 10)

    file = tmp_path / "float.onnx"
    torch.onnx.export(Broken().eval(), (torch.zeros(1, 1, 4, 4),), file, dynamo=True, verbose=False)
    function, suffix = _of(runtime)
    with refuses(ExportError):
        function(file, tmp_path / f"net{suffix}", [torch.ones(1, 1, 4, 4)])
    assert not [each.name for each in tmp_path.iterdir() if not each.name.startswith("float.onnx")]


@pytest.mark.parametrize(
    "options",
    [
        {"subset_size": 0},
        {"branch": "half"},
        {"ignored": "8.*"},
        {"max_drop": 0.5},
        {"max_drop": math.nan, "evaluate": []},
    ],
    ids=spelled,
)
def test_options_are_checked_first(exported: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    for function, name in ((quantize_onnx, "net.onnx"), (quantize_openvino, "net.xml")):
        with refuses(ExportError, next(iter(options))):
            function(exported, tmp_path / name, [torch.zeros(1, 1, 12, 12)], **options)
    assert not list(tmp_path.iterdir())


def test_what_is_no_exported_network_is_refused(exported: Path, tmp_path: Path) -> None:
    images = [torch.zeros(1, 1, 12, 12)]
    with refuses(ExportError, "nowhere.onnx"):
        quantize_onnx(tmp_path / "nowhere.onnx", tmp_path / "net.onnx", images)
    with refuses(ExportError, ".onnx"):
        quantize_onnx(tmp_path / "net.xml", tmp_path / "net.onnx", images)
    with refuses(ExportError):
        quantize_onnx(3, tmp_path / "net.onnx", images)  # type: ignore[arg-type]
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    with pytest.raises(ExportError, match=r"broken\.onnx"):
        quantize_openvino(tmp_path / "broken.onnx", tmp_path / "net.xml", images)


@ONE
@pytest.mark.parametrize("family", sorted(set(LAYERS) - {"dcd"}))
def test_every_family_is_quantised_as_it_is_trained(family: str, runtime: str, tmp_path: Path) -> None:
    """Not deployed first, so ODConv's branch still has its batch norm."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 24, 3, stride=2, padding=1), nn.ReLU6(), LAYERS[family](24, 48, 1), nn.ReLU6(), nn.Flatten(2)
    )
    images, labels = stripes(64, 0)
    network(images)
    network.eval()
    export_onnx(network, tmp_path / "float.onnx", images[:2], free_size=False, rewrite=False)
    quantize, suffix = _of(runtime)
    report = quantize(tmp_path / "float.onnx", tmp_path / f"int8{suffix}", batches(images, labels), subset_size=64)
    with torch.no_grad():
        want = network(images)
    got = torch.as_tensor(_loaded(report)(images)[0])
    # Eight bits of the input, the weights and the output: a few per cent of the largest value.
    assert 1e-4 < (got - want).abs().max() / want.abs().max() < 0.1


@pytest.mark.slow
def test_a_norm_inside_the_branch_of_a_linear_layer_is_quantised(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = DCDLinear(24, 10, norm="batch")
    network = nn.Sequential(nn.Conv2d(1, 24, 3), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier)
    images, labels = stripes(64, 0)
    for _ in range(20):
        network(images)
    report = quantize_openvino(network.eval(), tmp_path / "net.xml", batches(images, labels))
    assert report.quantized == report.products


def test_the_sentence_of_a_runtime_says_what_is_wrong(tmp_path: Path) -> None:
    """OpenVINO begins with places in its own source."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    file = tmp_path / "net.xml"
    export_openvino(network, file, torch.rand(2, 1, 8, 8))
    file.write_text(file.read_text().replace('type="ReLU"', 'type="Reluu"'))
    with pytest.raises(ExportError, match=r"cannot read .*Reluu") as caught:
        quantize_openvino(file, tmp_path / "int8.xml", [torch.rand(2, 1, 8, 8)])
    assert "src/" not in str(caught.value)
