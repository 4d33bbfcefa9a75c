"""What both int8 exports do: take images, quantise, run the result beside the float network, and only then keep it."""

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dynaconv.errors import ExportError
from dynaconv.export.int8_images import Shape, calibration_images, check_shapes, in_batches, labelled_images
from dynaconv.export.int8_report import Branch, Int8Report
from dynaconv.export.target import verified_target
from dynaconv.export.verify import Run, first_line

BATCHES = (1, 3)
"""Batch sizes that a file with a free batch is run at."""


@dataclass(frozen=True, kw_only=True)
class Int8Options:
    """What the caller asked for, checked.

    Attributes:
        subset_size: Calibration images to take at most.
        ignored: Shell patterns of operations that stay in float32.
        branch: Whether dynamic branches stay in float32.
        max_drop: Points of accuracy that may be lost; None for any.
        overwrite: Whether files that are there may be replaced.
    """

    subset_size: int
    ignored: tuple[str, ...]
    branch: Branch
    max_drop: float | None
    overwrite: bool

    @classmethod
    def checked(
        cls,
        *,
        subset_size: int,
        ignored: Sequence[str],
        branch: Branch,
        max_drop: float | None,
        evaluate: object,
        overwrite: bool,
    ) -> "Int8Options":
        """Build from arguments.

        Raises:
            ExportError: One is out of range, or they do not fit together.
        """
        if not isinstance(subset_size, int) or isinstance(subset_size, bool) or subset_size < 1:
            raise ExportError(f"`subset_size` counts calibration images, an int >= 1; got {subset_size!r}.")
        if branch not in ("float", "int8"):
            raise ExportError(f"`branch` is 'float' or 'int8'; got {branch!r}.")
        if isinstance(ignored, str):
            raise ExportError(f"`ignored` is a sequence of patterns; got the string {ignored!r}, pass [{ignored!r}].")
        if max_drop is not None and evaluate is None:
            raise ExportError(f"max_drop={max_drop} needs `evaluate`, a loader of (images, labels) to measure it on.")
        if max_drop is not None and not max_drop >= 0:
            raise ExportError(f"`max_drop` is in points of accuracy, at least 0; got {max_drop!r}.")
        return cls(
            subset_size=subset_size, ignored=tuple(ignored), branch=branch, max_drop=max_drop, overwrite=overwrite
        )


class Quantized(NamedTuple):
    """What a backend did: see `Int8Report`."""

    quantized: int
    products: int
    kept_float: int


@dataclass(frozen=True, kw_only=True)
class Int8Backend:
    """How one runtime's files are made, quantised and run.

    Attributes:
        runtime, tool: Names with versions.
        sources: Endings of the float files it reads.
        suffix: Ending of what it writes.
        companions: Suffixes of further files.
        export: Writes a float network: model, path, example.
        input_shapes: Of a float file, one shape an input.
        quantize: From a float file to an int8 file, with images ``(B, C, H, W)`` that fit the file.
        load: Opens a file of either sort.
    """

    runtime: str
    tool: str
    sources: tuple[str, ...]
    suffix: str
    companions: tuple[str, ...]
    export: Callable[[nn.Module, Path, Tensor], object]
    input_shapes: Callable[[Path], list[Shape]]
    quantize: Callable[[Path, Path, list[Tensor], Int8Options], Quantized]
    load: Callable[[Path], Run]


def quantize_with(
    backend: Int8Backend,
    model: nn.Module | str | Path,
    path: str | Path,
    calibration: Iterable[Any],
    options: Int8Options,
    evaluate: Iterable[Any] | None,
) -> Int8Report:
    """Quantise a network with one backend; the public functions say what the arguments are.

    Raises:
        ExportError: As they say. Nothing is written then.
    """
    target = verified_target(
        path, suffixes=(backend.suffix,), overwrite=options.overwrite, companions=backend.companions
    )
    with target as file, tempfile.TemporaryDirectory() as scratch:
        images = calibration_images(calibration, options.subset_size)
        source = _float_file(backend, model, Path(scratch), images[0][:1])
        shape = _one_input(backend, source)
        check_shapes(images, shape, "calibration")
        before = _open(backend, source)
        try:
            counts = backend.quantize(source, file, list(in_batches(images, shape)), options)
        except ExportError:
            raise
        except Exception as error:
            raise ExportError(f"{backend.tool} cannot quantise the network: {first_line(error)}") from error
        after = _open(backend, file)
        apart = _relative_error(backend, before, after, in_batches(images, shape))
        batches = _check_batches(backend, after, images, shape)
        quality = _Quality()
        if evaluate is not None:
            quality.measure(before, after, labelled_images(evaluate), shape)
            quality.check(options.max_drop)
        names = sorted((each.name for each in file.parent.iterdir()), key=lambda name: (name != file.name, name))
        int8_bytes = sum((file.parent / name).stat().st_size for name in names)
        float_bytes = sum(each.stat().st_size for each in _files_of(backend, source))
    folder = Path(path).expanduser().parent
    return Int8Report(
        runtime=backend.runtime,
        tool=backend.tool,
        path=folder / file.name,
        files=tuple(folder / name for name in names),
        before=quality.share(quality.right_before),
        after=quality.share(quality.right_after),
        evaluated=quality.seen,
        agreement=quality.share(quality.same),
        error=apart,
        float_bytes=float_bytes,
        int8_bytes=int8_bytes,
        **counts._asdict(),
        calibrated=sum(map(len, images)),
        branch=options.branch,
        free_batch=shape[0] is None,
        batches=batches,
    )


def _float_file(backend: Int8Backend, model: nn.Module | str | Path, scratch: Path, example: Tensor) -> Path:
    if isinstance(model, nn.Module):
        source = scratch / f"float{backend.suffix}"
        backend.export(model, source, example)
        return source
    if not isinstance(model, str | Path):
        raise ExportError(f"`model` is a torch.nn.Module or the path of an exported one; got {type(model).__name__}.")
    source = Path(model).expanduser()
    if source.suffix not in backend.sources:
        raise ExportError(
            f"{source} should end in {' or '.join(map(repr, backend.sources))}; export the network first."
        )
    if not source.is_file():
        raise ExportError(f"there is no file {source}; export the network to it first, or pass the network itself.")
    return source


def _files_of(backend: Int8Backend, source: Path) -> list[Path]:
    # ONNX puts the weights of a large network beside the graph, as <name>.onnx.data.
    beside = [*(source.with_suffix(suffix) for suffix in backend.companions), source.with_name(f"{source.name}.data")]
    return [source, *(file for file in beside if file.is_file() and file != source)]


def _one_input(backend: Int8Backend, source: Path) -> Shape:
    try:
        shapes = backend.input_shapes(source)
    except Exception as error:
        raise ExportError(f"{backend.runtime} cannot read {source}: {first_line(error)}") from error
    if len(shapes) != 1:
        raise ExportError(f"the network takes {len(shapes)} inputs; only networks of one input can be quantised.")
    return shapes[0]


def _open(backend: Int8Backend, file: Path) -> Run:
    try:
        return backend.load(file)
    except Exception as error:
        raise ExportError(f"{backend.runtime} cannot load {file.name}: {first_line(error)}") from error


def _outputs(run: Run, images: Tensor, what: str) -> list[Tensor]:
    try:
        outputs = [torch.as_tensor(each).double() for each in run(images)]
    except Exception as error:
        at = "x".join(map(str, images.shape))
        raise ExportError(f"the {what} network cannot be run at {at}: {first_line(error)}") from error
    if not all(bool(each.isfinite().all()) for each in outputs):
        raise ExportError(
            f"the {what} network gives NaN or infinite outputs; "
            + ("train it, or repair it, before it is quantised." if what == "float" else "nothing was written.")
        )
    return outputs


def _relative_error(backend: Int8Backend, before: Run, after: Run, images: Iterable[Tensor]) -> float:
    """``|after - before| / |before|`` of the output for which that is largest."""
    apart: dict[int, float] = {}
    length: dict[int, float] = {}
    for batch in images:
        wanted, given = _outputs(before, batch, "float"), _outputs(after, batch, "int8")
        if [each.shape for each in wanted] != [each.shape for each in given]:
            raise ExportError(f"the int8 network has other outputs than the float one in {backend.runtime}.")
        for position, (want, got) in enumerate(zip(wanted, given, strict=True)):
            apart[position] = apart.get(position, 0.0) + float(((got - want) ** 2).sum())
            length[position] = length.get(position, 0.0) + float((want**2).sum())
    return max(math.sqrt(apart[each] / length[each]) if length[each] else math.sqrt(apart[each]) for each in apart)


def _check_batches(backend: Int8Backend, after: Run, images: Sequence[Tensor], shape: Shape) -> tuple[int, ...]:
    """Run the int8 network at several batch sizes, where its batch is free; the sizes that were run."""
    if shape[0] is not None:
        return (shape[0],)
    for size in BATCHES:
        batch = images[0][torch.arange(size) % len(images[0])]
        if any(len(output) != size for output in _outputs(after, batch, "int8")):
            raise ExportError(f"the int8 network does not give {size} results for {size} images in {backend.runtime}.")
    return BATCHES


class _Quality:
    """Accuracy of both networks, over one pass of a loader."""

    def __init__(self) -> None:
        self.seen = self.right_before = self.right_after = self.same = 0

    def measure(self, before: Run, after: Run, loader: Iterable[tuple[Tensor, Tensor]], shape: Shape) -> None:
        for images, labels in _fitting(loader, shape):
            check_shapes([images], shape, "evaluation")
            first, second = (
                _classes(_outputs(run, images, what), labels) for run, what in ((before, "float"), (after, "int8"))
            )
            self.seen += len(labels)
            self.right_before += int((first == labels).sum())
            self.right_after += int((second == labels).sum())
            self.same += int((first == second).sum())

    def check(self, max_drop: float | None) -> None:
        drop = 100 * (self.right_before - self.right_after) / self.seen
        if max_drop is not None and drop > max_drop:
            raise ExportError(
                f"int8 loses {drop:.2f} points of accuracy, more than max_drop={max_drop}; nothing was written. Give "
                f"more calibration images, or keep the layers that matter in float32 with `ignored`."
            )

    def share(self, count: int) -> float | None:
        """Per cent of the images seen."""
        return 100 * count / self.seen if self.seen else None


def _fitting(loader: Iterable[tuple[Tensor, Tensor]], shape: Shape) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a loader, one of another size than a fixed batch refused."""
    for images, labels in loader:
        if shape[0] is not None and len(images) != shape[0]:
            raise ExportError(
                f"the network's batch is fixed to {shape[0]}, the loader in `evaluate` gives {len(images)} images; "
                f"use batches of {shape[0]} and drop_last=True, or export with a free batch."
            )
        yield images, labels


def _classes(outputs: list[Tensor], labels: Tensor) -> Tensor:
    if len(outputs) != 1 or outputs[0].dim() != 2:
        shapes = ", ".join(str(tuple(each.shape)) for each in outputs)
        raise ExportError(f"accuracy is measured on one output (B, classes); the network gives {shapes}.")
    if not 0 <= int(labels.min()) <= int(labels.max()) < outputs[0].shape[1]:
        raise ExportError(
            f"the labels in `evaluate` go from {int(labels.min())} to {int(labels.max())}, the network has "
            f"{outputs[0].shape[1]} classes."
        )
    return outputs[0].argmax(1)
