"""Export every registered DCD network to ONNX and OpenVINO, run both files beside PyTorch, write the numbers as a page.

    python benchmarks/export_models.py docs/export-models.md --work runs/export-models
    python benchmarks/export_models.py --names dcd_resnet18 --work runs/export-models    # one of them, no page

Each network is warmed up first: its weights are random, and fresh running statistics would let it multiply rounding
errors up until no two ways of computing it agree. What is done already, one JSON file a network in the work folder, is
not done again. A network that fails is in the table with its reason.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import timm
import torch
from _runtimes import WARM_UP_PASSES, built, warm_up

import dynaconv.models  # noqa: F401  # registers the networks with timm
from dynaconv.deployment import deploy
from dynaconv.errors import DynaconvError
from dynaconv.export import export_onnx, verify
from dynaconv.export.onnx import load_onnx
from dynaconv.export.openvino import convert_onnx_file, load_openvino
from dynaconv.export.verify import LIMIT
from dynaconv.files import write_text
from dynaconv.markdown import markdown_table, write_page

SIDE = 64
BATCHES = (1, 3, 16)
WARM_UP_BATCH = 16
RUNTIMES = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}


def export_and_check(name: str) -> dict[str, Any]:
    """Export one network and compare both files with it; a row for the table."""
    example = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    model = built(name)
    warm_up(model, example, WARM_UP_BATCH)
    row: dict[str, Any] = {"name": name, "params": sum(each.numel() for each in model.parameters())}
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        onnx_file, openvino_file = Path(folder) / "model.onnx", Path(folder) / "model.xml"
        try:
            report = export_onnx(deploy(model), onnx_file, example, free_size=False)
            row["processor_seconds"] = time.process_time() - start
            row["free"] = list(report.free_axes)
            convert_onnx_file(onnx_file, openvino_file)
            row["bytes"] = {
                "ONNX Runtime": onnx_file.stat().st_size,
                "OpenVINO": openvino_file.stat().st_size + openvino_file.with_suffix(".bin").stat().st_size,
            }
            runs = {"ONNX Runtime": load_onnx(onnx_file), "OpenVINO": load_openvino(openvino_file)}
            # Beside the network as it was before `deploy`.
            row["checks"] = {
                runtime: [
                    {"batch": check.batch, "difference": check.difference, "redrawn": check.redrawn}
                    for check in verify(run, model, example, runtime=runtime, batches=BATCHES)
                ]
                for runtime, run in runs.items()
            }
        except DynaconvError as error:
            row["failure"] = str(error)
    return row


def page(rows: list[dict[str, Any]], names: list[str]) -> list[str]:
    """The table of what was run, of all ``names``, and how it came about, as blocks of Markdown."""
    failed = [row for row in rows if "failure" in row]
    checks = [check for row in rows if row not in failed for found in row["checks"].values() for check in found]
    worst = max((check["difference"] for check in checks), default=float("nan"))
    again = sum(check["redrawn"] for check in checks)
    versions = ", ".join(f"{runtime} {metadata.version(package)}" for runtime, package in RUNTIMES.items())
    table = []
    for row in rows:
        table.append([f"`{row['name']}`", f"{row['params']:,}"])
        if row in failed:
            table[-1].append(f"failed: {row['failure']}")
            continue
        table[-1] += [f"{check['difference']:.1e}" for runtime in RUNTIMES for check in row["checks"][runtime]]
        table[-1] += [f"{row['bytes'][runtime] / 1e6:.1f} MB" for runtime in RUNTIMES]
    columns = ["network", "parameters", *(f"{runtime}, batch {batch}" for runtime in RUNTIMES for batch in BATCHES)]
    blocks = [
        "# Every DCD network in ONNX Runtime and OpenVINO",
        "Report. Written by `benchmarks/export_models.py`. Each network, 1000 classes, random weights, was warmed up "
        f"by {WARM_UP_PASSES} batches of {WARM_UP_BATCH} random images, deployed, exported to ONNX with a free batch "
        f"size from an example of {SIDE}x{SIDE} pixels, and that file turned into OpenVINO's. The numbers are the "
        "largest differences `max|runtime - PyTorch| / max|PyTorch|` from the network before it was deployed, in "
        "float32, on random images.",
        f"{len(rows) - len(failed)} of {len(rows)} networks passed the limit of {LIMIT:.0e} at every batch size in "
        f"both runtimes; the largest difference is {worst:.1e}. In {again} of {len(checks)} checks the images were "
        "drawn again, because on the first ones the network's own rounding errors, float32 beside "
        f"float64 in PyTorch, were above {LIMIT / 4:.1e} (a batch norm inside a dynamic branch of an untrained network "
        "does that to an unusual image).",
        f"PyTorch {torch.__version__.partition('+')[0]}, {versions}, Python {platform.python_version()}, "
        f"{platform.machine()}, {os.cpu_count()} processors.",
        "\n".join(markdown_table([*columns, ".onnx", ".xml + .bin"], table)),
    ]
    done = {row["name"] for row in rows}
    if missing := [f"`{name}`" for name in names if name not in done]:
        blocks.append(f"Not run: {', '.join(missing)}.")
    return blocks


def main() -> None:
    """Do what is not done yet, then write the page of all that is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, nargs="?", help="where to write the table")
    parser.add_argument("--work", type=Path, required=True, help="folder of what is done")
    registered = timm.list_models("dcd_*")
    parser.add_argument("--names", nargs="*", default=registered, help="what to do; nothing to write the page alone")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for name in args.names:
        done = args.work / f"{name}.json"
        if not done.exists():
            row = export_and_check(name)
            write_text(done, json.dumps(row, indent=1))
            print(name, row.get("failure") or row["checks"], flush=True)
    if args.page:
        files = [args.work / f"{name}.json" for name in registered]
        rows = [json.loads(file.read_text()) for file in files if file.exists()]
        write_page(args.page, page(rows, registered))


if __name__ == "__main__":
    main()
