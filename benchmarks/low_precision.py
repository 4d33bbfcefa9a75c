"""Accuracy of half precision and int8 files, and of native kernels with bfloat16 weights, beside float32.

    python benchmarks/low_precision.py docs/results/weights/*.safetensors        # the table of docs/int8.md

Files are written of the deployed network; ranges for int8 are taken from training images, accuracy is measured on every
test image in the runtime of the file. OpenVINO runs half precision files in the precision that it chooses here.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv import deploy
from dynaconv.deployment.backends import Precision
from dynaconv.export import export_onnx, export_openvino, quantize_onnx, quantize_openvino
from dynaconv.export.onnx import load_onnx
from dynaconv.export.openvino import load_openvino
from dynaconv.export.verify import Run
from dynaconv.markdown import markdown_table
from dynaconv.train.checkpoint import load_trained
from dynaconv.train.checkpoint_evaluation import checkpoint_data, choose_split

BATCH = 256
FORMS = ("half, ONNX Runtime", "half, OpenVINO", "int8, ONNX Runtime", "int8, OpenVINO")
NATIVE: tuple[Precision, ...] = ("bf16", "int8")
"""Precisions of the native kernels."""


def native(network: nn.Module) -> dict[str, Callable[..., Any]]:
    """Deploy the network natively in each precision."""
    found = {each: deploy(network, backend="native", precision=each) for each in NATIVE}
    return {f"{each}, native": lambda images, run=run: [run(images)] for each, run in found.items()}


def files(network: nn.Module, calibration: Iterable[Any], folder: Path, images: int) -> dict[str, Callable[..., Any]]:
    """Write the four files, and return what runs each."""
    example = next(iter(calibration))[0][:1]
    names = ("half.onnx", "half.xml", "int8.onnx", "int8.xml")
    paths = {form: folder / name for form, name in zip(FORMS, names, strict=True)}
    half_onnx, half_openvino, int8_onnx, int8_openvino = paths.values()
    export_onnx(network, half_onnx, example, half=True, free_size=False)
    print(export_openvino(network, half_openvino, example, half=True, free_size=False), flush=True)
    print(quantize_onnx(network, int8_onnx, calibration, subset_size=images), flush=True)
    print(quantize_openvino(network, int8_openvino, calibration, subset_size=images), flush=True)
    loads: tuple[Callable[[Path], Run], ...] = (
        load_onnx,
        partial(load_openvino, precision=None),
        load_onnx,
        load_openvino,
    )
    return {name: load(path) for (name, path), load in zip(paths.items(), loads, strict=True)}


def classes(run: Callable[..., Any], test: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the class that a file or a network gives each test image."""
    with torch.no_grad():
        return torch.cat([torch.as_tensor(run(images)[0]).argmax(-1) for images, _ in test])


def row(path: Path, images: int) -> list[str]:
    """Return the table's row of a checkpoint."""
    network, metadata = load_trained(path)
    network = deploy(network)
    data = checkpoint_data(metadata, None, None, BATCH, 0)
    calibration, test = (data.eval_loader(choose_split(data, split)) for split in ("train", "test"))
    labels = torch.cat([labels for _, labels in test])
    float_classes = classes(lambda batch: [network(batch)], test)
    correct = int((float_classes == labels).sum())
    cells = [path.stem, f"{100 * correct / len(labels):.2f}"]
    with tempfile.TemporaryDirectory() as folder:
        runs = native(network) | ({} if images == 0 else files(network, calibration, Path(folder), images))
        for run in runs.values():
            found = classes(run, test)
            points = 100 * (int((found == labels).sum()) - correct) / len(labels)
            cells.append(f"{points:+.2f} ({int((found != float_classes).sum())})")
    return cells


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+", help="run folders or *.safetensors")
    parser.add_argument("--images", type=int, default=300, help="calibration images (default: 300); 0 writes no files")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = (row(path, args.images) for path in args.checkpoints)
    forms = [*(f"{each}, native" for each in NATIVE), *(FORMS if args.images else ())]
    for line in markdown_table(["network", "float32, accuracy %", *forms], rows):
        print(line, flush=True)
    print("\nDifference of accuracy in points and, in brackets, images with another class than in float32.")


if __name__ == "__main__":
    main()
