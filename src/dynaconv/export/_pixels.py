"""Puts the normalisation of images into an exported file, which then takes pixels as an image decoder gives them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from dynaconv.errors import ExportError, check_type
from dynaconv.export.image_info import ImageInfo
from dynaconv.export.packages import require
from dynaconv.export.pipeline import Format, export_as
from dynaconv.export.report import ExportReport
from dynaconv.export.verify import Run, as_inputs

_LAST = (0, 2, 3, 1)
"""Axes of ``(B, C, H, W)`` in the order ``(B, H, W, C)``."""


@dataclass(frozen=True, kw_only=True)
class ImageForm:
    """How a file takes images, and what it says of them.

    Attributes:
        info: Description of the images, if there is one.
        preprocessing: Whether the file takes pixels.
        entries: Entries of the file.
    """

    info: ImageInfo | None = None
    preprocessing: bool = False
    entries: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, example: Tensor | Sequence[Tensor], info: ImageInfo | None, *, preprocessing: bool) -> Self:
        """Return the form of a network with the inputs ``example``.

        Raises:
            ExportError: The description is missing or does not fit the inputs.
            TypeError: It is no `ImageInfo`.
        """
        if info is None:
            if preprocessing:
                raise ExportError(
                    "`preprocessing` needs the mean and std of the images; pass `info=ImageInfo(mean=..., std=...)`."
                )
            return cls()
        check_type("info", info, ImageInfo)
        size = _image_size(example, info)
        return cls(info=info, preprocessing=preprocessing, entries=info.entries(size=size, preprocessing=preprocessing))

    def export(
        self,
        file_format: Format,
        model: nn.Module,
        path: str | Path,
        example: Tensor | Sequence[Tensor],
        **options: Any,
    ) -> ExportReport:
        """Export a network with `export_as`, from pixels with ``preprocessing``."""
        if not self.preprocessing:
            return export_as(file_format, model, path, example, **options)
        assert self.info is not None
        record = file_format.record
        pixel_format = replace(
            file_format,
            load=_loaded_for_pixels(file_format.load),
            record=None if record is None else lambda network: record(network.network),  # type: ignore[arg-type]
        )
        report = export_as(pixel_format, _FromPixels(model, self.info), path, _pixels_of(example, self.info), **options)
        return _for_pixels(report)


class _FromPixels(nn.Module):
    """A network that takes pixels.

    Shape:
        ``uint8`` ``(B, C, H, W)`` to the outputs of the network. The file has ``(B, H, W, C)``; see `channels_last`.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, info: ImageInfo) -> None:
        super().__init__()
        self.network = network
        mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (info.mean, info.std))
        self.register_buffer("scale", (1 / (255 * std)).float())
        self.register_buffer("shift", (-mean / std).float())

    def forward(self, images: Tensor) -> Any:
        """Normalise the pixels and run the network."""
        return self.network(images.to(self.scale.dtype) * self.scale + self.shift)


def _image_size(example: Tensor | Sequence[Tensor], info: ImageInfo) -> tuple[int, int]:
    """Return height and width of the only input of a network.

    Raises:
        ExportError: There are several inputs, or the input is no image of as many channels as the description has.
    """
    inputs = as_inputs(example)
    channels = len(info.mean)
    if len(inputs) != 1 or inputs[0].dim() != 4 or inputs[0].shape[1] != channels:
        shapes = " and ".join(str(tuple(tensor.shape)) for tensor in inputs)
        raise ExportError(
            f"`info` has a mean for {channels} channels and describes one input (B, {channels}, H, W); got {shapes}."
        )
    return inputs[0].shape[2], inputs[0].shape[3]


def _pixels_of(example: Tensor | Sequence[Tensor], info: ImageInfo) -> Tensor:
    """Return the pixels, ``uint8`` ``(B, C, H, W)``, of normalised images."""
    (images,) = as_inputs(example)
    mean, std = (torch.tensor(values)[:, None, None] for values in (info.mean, info.std))
    return ((images.detach().cpu().float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def channels_last(model: Any) -> None:
    """Move the channels of the only input of an `onnx_ir` model to the last axis, in place."""
    (ir,) = require("onnx_ir", needed_by="ONNX export")
    graph = model.graph
    (images,) = graph.inputs
    node = ir.node("Transpose", [images], {"perm": [0, 3, 1, 2]}, name="channels_first")
    first = node.outputs[0]
    first.name, first.shape, first.type = f"{images.name}_channels_first", images.shape, images.type
    ir.convenience.replace_all_uses_with(images, first)
    node.replace_input_with(0, images)
    images.shape = ir.Shape([images.shape[axis] for axis in _LAST])
    graph.insert_before(graph[0], node)


def _loaded_for_pixels(load: Callable[[Path], Run]) -> Callable[[Path], Run]:
    """Return a function that loads a file and runs it with its channels on the last axis."""

    def load_pixels(file: Path) -> Run:
        run = load(file)
        return lambda images: run(images.permute(_LAST).contiguous())

    return load_pixels


def _for_pixels(report: ExportReport) -> ExportReport:
    """Return a report with the shapes of the file, ``(B, H, W, C)``."""
    inputs = {name: tuple(shape[axis] for axis in _LAST) for name, shape in report.inputs.items()}
    checks = tuple(
        replace(check, shapes=tuple(tuple(shape[axis] for axis in _LAST) for shape in check.shapes))
        for check in report.checks
    )
    note = "the file takes uint8 pixels (B, H, W, C) and normalises them."
    return replace(report, inputs=inputs, checks=checks, notes=(note, *report.notes))
