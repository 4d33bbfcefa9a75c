"""The int8 part of ``dynaconv export``: data of a trained run for ranges and accuracy, and the call."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynaconv.commands._subject import Subject
from dynaconv.errors import RunError

if TYPE_CHECKING:
    from dynaconv.export.int8_report import Int8Report

FORMATS = ("onnx", "openvino")
SEED = 0
"""Chooses the training images from which ranges are taken."""
_BATCH = 64
_IMAGES = 300
_FLAGS = ("data", "data_dir", "images", "max_drop")


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add ``--int8`` and what goes with it."""
    command.add_argument("--int8", action="store_true", help="onnx and openvino: quantise a trained run")
    command.add_argument("--data", metavar="NAME", help="int8: a data set; by default the one it was trained on")
    command.add_argument("--data-dir", metavar="DIR", help="int8: where the data lies")
    command.add_argument("--images", metavar="N", type=int, help=f"int8: training images for the ranges ({_IMAGES})")
    command.add_argument(
        "--max-drop", metavar="POINTS", type=float, help="int8: refuse to lose more accuracy than that"
    )


def check_flags(arguments: argparse.Namespace) -> None:
    """Refuse, before anything is loaded, flags that do not go together."""
    if not arguments.int8:
        for name in _FLAGS:
            if getattr(arguments, name) is not None:
                raise RunError(f"--{name.replace('_', '-')} goes with --int8.")
        return
    if arguments.format not in FORMATS:
        raise RunError(f"--int8 has the formats {' and '.join(FORMATS)}; {arguments.format} does not have it.")
    for name in ("size", "fixed_batch", "fixed_size"):
        if getattr(arguments, name):
            raise RunError(f"--{name.replace('_', '-')} does not go with --int8: the data has its size.")
    if arguments.native:
        raise RunError("--native does not go with --int8: the native kernels compute in float32.")
    if arguments.images is not None and arguments.images < 1:
        raise RunError(f"--images is at least 1; got {arguments.images}.")


def export_int8(arguments: argparse.Namespace, subject: Subject, out: Path) -> "Int8Report":
    """Quantise with training images, test with test images.

    Raises:
        RunError: The network does not say how its images are prepared, or which they were.
        DataError: The data cannot be read or has other classes.
        ExportError: It cannot be quantised or written.
    """
    if subject.metadata is None:
        raise RunError(
            f"--int8 takes its ranges from training images, and {subject.name} is not trained; give a trained run."
        )
    from dynaconv.export.int8_onnx import quantize_onnx
    from dynaconv.export.int8_openvino import quantize_openvino

    images = arguments.images or _IMAGES
    calibration, test = _loaders(subject.metadata, arguments.data, arguments.data_dir, images)
    quantize: Any = quantize_onnx if arguments.format == "onnx" else quantize_openvino
    report: Int8Report = quantize(
        subject.model,
        out,
        calibration,
        subset_size=images,
        evaluate=test,
        max_drop=arguments.max_drop,
        overwrite=arguments.overwrite,
    )
    return report


def _loaders(
    metadata: dict[str, Any], data: str | None, data_dir: str | None, images: int
) -> tuple[Iterable[Any], Iterable[Any]]:
    """Training images drawn at random, prepared as for a test, and all test images."""
    import torch
    from torch.utils.data import IterableDataset, Subset

    from dynaconv.train.checkpoint_evaluation import check_classes, checkpoint_data, choose_split

    module = checkpoint_data(metadata, data, data_dir, _BATCH, None)
    check_classes(module, metadata)
    split: Any = choose_split(module, "train")
    if not isinstance(split, IterableDataset):
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(SEED))
        indices = sorted(order[:images].tolist())
        split = split.subset(indices) if hasattr(split, "subset") else Subset(split, indices)
    return module.eval_loader(split), module.eval_loader(choose_split(module, "test"))
