"""What int8 costs in accuracy and gives in size and time, for a trained network in two runtimes.

    dynaconv train --config fashion-mnist --model dcd_mobilenetv2_050 --epochs 5 --out runs/int8
    python benchmarks/int8.py runs/int8 --out docs/results/int8

Ranges are taken from training images, accuracy is measured on every test image, latency in alternating rounds.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from _runtimes import opened, weight_bytes
from torch import Tensor, nn

from dynaconv.deployment import deploy
from dynaconv.export.int8_onnx import quantize_onnx
from dynaconv.export.int8_openvino import quantize_openvino
from dynaconv.export.int8_report import Int8Report
from dynaconv.export.onnx import export_onnx
from dynaconv.export.openvino import export_openvino
from dynaconv.files import write_json, write_text
from dynaconv.markdown import markdown_table
from dynaconv.measure.latency import Latency, measure_latency
from dynaconv.train.checkpoint import load_trained
from dynaconv.train.checkpoint_evaluation import checkpoint_data, choose_split
from dynaconv.train.evaluate import evaluate

INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm")
RUNTIMES = ("ONNX Runtime", "OpenVINO")


class Running(nn.Module):
    """A file in its runtime, as a module, so that `measure_latency` can time it."""

    def __init__(self, file: Path, threads: int) -> None:
        super().__init__()
        self.run = opened(file, "ort" if file.suffix == ".onnx" else "openvino", threads)[1]

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch."""
        return torch.as_tensor(self.run(x.numpy())[0])


def instruction_sets() -> list[str]:
    """Those of the processor that decide how fast int8 is; empty where the system does not tell."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    flags = next((line.split(":")[1].split() for line in lines if line.lower().startswith(("flags", "features"))), [])
    return [each for each in INSTRUCTIONS if each in flags]


def quantise(model: nn.Module, data: Any, folder: Path, images: int) -> tuple[dict[str, Path], dict[str, Int8Report]]:
    """Export and quantise in both runtimes; the files and the reports by name."""
    calibration = data.eval_loader(choose_split(data, "train"))
    test = data.eval_loader(choose_split(data, "test"))
    example = next(iter(calibration))[0][:2]
    files: dict[str, Path] = {}
    reports: dict[str, Int8Report] = {}
    source = folder / "source.onnx"
    export_onnx(model, source, example, rewrite="int8")
    for runtime, suffix in zip(RUNTIMES, (".onnx", ".xml"), strict=True):
        file = files[f"{runtime} float"] = folder / f"float{suffix}"
        (export_onnx if suffix == ".onnx" else export_openvino)(model, file, example)
        function = quantize_onnx if suffix == ".onnx" else quantize_openvino
        for branch, name in (("float", "int8"), ("int8", "int8, branch too")):
            key = f"{runtime} {name}"
            file = folder / f"int8-{branch}{suffix}"
            reports[key] = function(source, file, calibration, subset_size=images, branch=branch, evaluate=test)  # type: ignore[arg-type]
            files[key] = file
            print(reports[key], flush=True)
    return files, reports


def rows(eager: float, weights: int, reports: dict[str, Int8Report], times: list[Latency]) -> list[list[str]]:
    """The table's cells: accuracy, size, what is int8, and each latency."""
    table = [["torch float", f"{eager:.2f}", "", "", f"{weights / 1e6:.2f}", ""]]
    for runtime in RUNTIMES:
        first = reports[f"{runtime} int8"]
        assert first.before is not None
        table.append([f"{runtime} float", f"{first.before:.2f}", "", "", f"{first.float_bytes / 1e6:.2f}", "0"])
        for name in (f"{runtime} int8", f"{runtime} int8, branch too"):
            report = reports[name]
            cells = [f"{report.after:.2f}", f"{-(report.drop or 0.0):+.2f}", f"{report.error:.1%}"]
            table.append([name, *cells, f"{report.int8_bytes / 1e6:.2f}", f"{report.quantized} of {report.products}"])
    for row in table:
        for latency in times:
            entry = latency[row[0]]
            row.append(f"{entry.median_ms:.2f} ± {entry.spread_ms:.2f}")
    return table


def markdown(table: list[list[str]], times: list[Latency], conditions: list[str]) -> str:
    """The table and the conditions it holds under."""
    columns = ["network", "accuracy %", "points", "error", "MB", "products in int8"]
    columns += [f"batch {latency.input_size[0]}, ms" for latency in times]
    return "\n".join([*markdown_table(columns, table), "", *(f"- {each}" for each in conditions), ""])


def main() -> None:
    """Measure a finished run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished training run")
    parser.add_argument("--out", type=Path, help="folder for table.md and summary.json")
    parser.add_argument("--deploy", action="store_true", help="take the norms into the layers first")
    parser.add_argument("--images", type=int, default=300, help="calibration images (default: 300)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, metadata = load_trained(args.run)
    if args.deploy:
        model = deploy(model)
    data = checkpoint_data(metadata, None, None, 256, 0)
    eager = evaluate(model, data.eval_loader(choose_split(data, "test")), metadata["class_names"])
    weights = weight_bytes(model)
    with tempfile.TemporaryDirectory() as folder:
        files, reports = quantise(model, data, Path(folder), args.images)
        size = (metadata["in_channels"], metadata["image_size"], metadata["image_size"])
        networks = {"torch float": model, **{name: Running(file, args.threads) for name, file in files.items()}}
        times = [measure_latency(networks, (batch, *size), rounds=args.rounds) for batch in (1, 64)]
    sets = ", ".join(instruction_sets()) or "unknown"
    first = next(iter(reports.values()))
    tools = sorted({each for report in reports.values() for each in (report.runtime, report.tool)})
    network = f"{metadata['model']}{' after deploy' if args.deploy else ''} on {metadata['data']['name']}"
    conditions = [
        f"{network}: {eager.images:,} test images, {first.calibrated} training images for the ranges",
        "points: accuracy of int8 minus that of float in the same runtime; error: |int8 - float| / |float| of the "
        "logits on the calibration images",
        *(f"latency: {latency.conditions}" for latency in times),
        f"{', '.join(tools)}; instruction sets: {sets}",
    ]
    text = markdown(rows(100 * eager.accuracy, weights, reports, times), times, conditions)
    print(text)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        write_text(args.out / "table.md", text)
        summary = {
            "torch": {"accuracy": 100 * eager.accuracy, "bytes": weights},
            "int8": {name: _without_paths(report) for name, report in reports.items()},
            "latency": {
                f"batch {latency.input_size[0]}": {each.name: vars(each) for each in latency.models}
                for latency in times
            },
            "conditions": conditions,
        }
        write_json(args.out / "summary.json", summary)


def _without_paths(report: Int8Report) -> dict[str, Any]:
    return {key: value for key, value in report.to_dict().items() if key not in ("path", "files")}


if __name__ == "__main__":
    main()
