"""The int8 part of ``dynaconv export``: its flags, its data for calibration and test, and the export."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynaconv.commands._arguments import add_data, integer, real
from dynaconv.commands._network import LoadedNetwork
from dynaconv.errors import RunError

if TYPE_CHECKING:
    from dynaconv.export.int8_report import Int8Report

FORMATS = ("onnx", "openvino")
SEED = 0
"""Seed of the choice of calibration images."""
_BATCH_SIZE = 64
_DEFAULT_IMAGES = 300
_FLAGS = ("data", "data_dir", "images", "max_drop")


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add ``--int8`` and the flags that belong to it."""
    command.add_argument("--int8", action="store_true", help="onnx and openvino: quantise a trained run")
    add_data(command, "int8: ")
    command.add_argument(
        "--images",
        metavar="N",
        type=integer(1),
        help=f"int8: number of training images for calibration ({_DEFAULT_IMAGES})",
    )
    command.add_argument(
        "--max-drop", metavar="POINTS", type=real(0, 100), help="int8: largest accepted loss of accuracy"
    )


def check_flags(arguments: argparse.Namespace) -> None:
    """Check, before anything is loaded, that the flags go together."""
    if not arguments.int8:
        for name in _FLAGS:
            if getattr(arguments, name) is not None:
                raise RunError(f"--{name.replace('_', '-')} goes with --int8.")
        return
    if arguments.format not in FORMATS:
        raise RunError(f"--int8 has the formats {' and '.join(FORMATS)}; {arguments.format} does not have it.")
    for name in ("size", "fixed_batch", "fixed_size"):
        if getattr(arguments, name):
            raise RunError(f"--{name.replace('_', '-')} does not go with --int8: the data sets the size.")
    if arguments.native:
        raise RunError("--native does not go with --int8; for native kernels in int8, pass --native --precision int8.")
    if arguments.preprocessing:
        raise RunError("--preprocessing does not go with --int8: the calibration images are normalised.")


def export_int8(arguments: argparse.Namespace, network: LoadedNetwork, out: Path) -> "Int8Report":
    """Calibrate with training images, and test with test images.

    Raises:
        RunError: The network is not a trained run, so its data and preprocessing are unknown.
        DataError: The data cannot be read or has other classes.
        ExportError: The network cannot be quantised or written.
    """
    if network.metadata is None:
        raise RunError(
            f"--int8 calibrates with training images, but {network.name} is not trained; give a trained run."
        )
    from dynaconv.export.int8_onnx import quantize_onnx
    from dynaconv.export.int8_openvino import quantize_openvino

    images = arguments.images or _DEFAULT_IMAGES
    calibration, test = _loaders(network.metadata, arguments.data, arguments.data_dir, images)
    quantize: Any = quantize_onnx if arguments.format == "onnx" else quantize_openvino
    report: Int8Report = quantize(
        network.model,
        out,
        calibration,
        subset_size=images,
        evaluate=test,
        max_drop=arguments.max_drop,
        info=network.image_info(),
        overwrite=arguments.overwrite,
    )
    return report


def _loaders(
    metadata: dict[str, Any], data: str | None, data_dir: str | None, images: int
) -> tuple[Iterable[Any], Iterable[Any]]:
    """Return loaders of random training images, prepared as for a test, and of all test images."""
    from dynaconv.train.checkpoint_evaluation import checkpoint_data, choose_split, random_images

    module = checkpoint_data(metadata, data, data_dir, _BATCH_SIZE, None)
    split = random_images(module, "train", images, seed=SEED)
    return module.eval_loader(split), module.eval_loader(choose_split(module, "test"))
