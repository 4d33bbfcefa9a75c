"""The steps that both int8 exports share: read images, quantise, compare with the float network, move the file."""

import math
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import InitVar, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn

from dynaconv.errors import ExportError, received
from dynaconv.export.int8_images import Shape, calibration_images, check_shapes, in_batches, labelled_images
from dynaconv.export.int8_report import Branch, Int8Report
from dynaconv.export.target import verified_target
from dynaconv.export.verify import Run, first_line
from dynaconv.families.contract.checks import check_choice, check_integer
from dynaconv.measure.timing import time_in_turns
from dynaconv.progress import step

_TIMED_ROUNDS = 9
BATCHES = (1, 3)
"""Batch sizes at which a file with a free batch size is run."""
LOOPS = frozenset({"Scan", "Loop", "TensorIterator"})
"""Operators with a body, in ONNX and OpenVINO."""


@dataclass(frozen=True, kw_only=True)
class Int8Options:
    """Options of an int8 export.

    Attributes:
        subset_size: Largest number of calibration images.
        ignored: Shell patterns of operations that stay in float32.
        branch: ``"float"`` if dynamic branches stay in float32, ``"int8"`` if they are quantised.
        max_drop: Largest accepted loss of accuracy, in percentage points; None for no limit.
        overwrite: Whether existing files may be replaced.

    Raises:
        ExportError: An option is out of range, or ``max_drop`` is given without ``evaluate``.
    """

    subset_size: int
    ignored: Sequence[str]
    branch: Branch
    max_drop: float | None
    overwrite: bool
    evaluate: InitVar[object]

    def __post_init__(self, evaluate: object) -> None:
        check_integer("`subset_size`, a number of images,", self.subset_size, error=ExportError)
        check_choice("`branch`", self.branch, get_args(Branch), error=ExportError)
        if isinstance(self.ignored, str):
            raise ExportError(
                f"`ignored` must be a sequence of patterns; got the text {received(self.ignored)}, pass it in a list."
            )
        if self.max_drop is not None and evaluate is None:
            raise ExportError(
                f"max_drop={received(self.max_drop)} needs `evaluate`, a loader of (images, labels) to measure "
                f"accuracy."
            )
        if self.max_drop is not None and not self.max_drop >= 0:
            raise ExportError(
                f"`max_drop` is in percentage points of accuracy and must be >= 0; got {received(self.max_drop)}."
            )


class Quantized(NamedTuple):
    """Counts of a quantised graph, see `Int8Report`."""

    quantized: int
    products: int
    kept_float: int


@dataclass(frozen=True, kw_only=True)
class Int8Backend:
    """The functions that write, quantise and run the files of one runtime.

    Attributes:
        runtime, tool: Names with versions.
        sources: Endings of the float files that `quantize` reads.
        suffix: Ending of the int8 file.
        companions: Suffixes of further files.
        export: Writes a float ONNX file from a model, a path and an example.
        input_shapes: Returns the shapes of a float file's inputs; raises `ExportError` if the file has a loop.
        quantize: Writes an int8 file. Takes the float file, the path to write, images ``(B, C, H, W)`` that fit the
            float file, and the options.
        load: Loads a float or an int8 file.
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
    """Quantise a network with one backend; see the public functions for the arguments.

    Raises:
        ExportError: See the public functions. No file is written then.
    """
    target = verified_target(
        path, suffixes=(backend.suffix,), overwrite=options.overwrite, companions=backend.companions
    )
    with target as file, tempfile.TemporaryDirectory() as scratch:
        images = calibration_images(calibration, options.subset_size)
        source = _float_file(backend, model, Path(scratch), images[0][:1])
        shape = _input_shape(backend, source)
        check_shapes(images, shape, "calibration")
        float_run = _load(backend, source)
        try:
            with step(f"calibrating with {sum(map(len, images)):,} images and quantising in {backend.tool}"):
                counts = backend.quantize(source, file, list(in_batches(images, shape)), options)
        except ExportError:
            raise
        except Exception as error:
            raise ExportError(f"{backend.tool} cannot quantise the network: {first_line(error)}") from error
        int8_run = _load(backend, file)
        with step("comparing the int8 with the float network"):
            relative_error = _relative_error(backend, float_run, int8_run, in_batches(images, shape))
        batches = _check_batches(backend, int8_run, images, shape)
        float_ms, int8_ms = _milliseconds(
            (float_run, int8_run), images[0][torch.arange(shape[0] or 1) % len(images[0])]
        )
        accuracy = _Accuracy()
        if evaluate is not None:
            with step("measuring the accuracy of both networks"):
                accuracy.measure(float_run, int8_run, labelled_images(evaluate), shape)
            accuracy.check(options.max_drop)
        names = sorted((each.name for each in file.parent.iterdir()), key=lambda name: (name != file.name, name))
        int8_bytes = sum((file.parent / name).stat().st_size for name in names)
        float_bytes = sum(each.stat().st_size for each in _files_of(backend, source))
    folder = Path(path).expanduser().parent
    return Int8Report(
        runtime=backend.runtime,
        tool=backend.tool,
        path=folder / file.name,
        files=tuple(folder / name for name in names),
        before=accuracy.percentage(accuracy.correct_float),
        after=accuracy.percentage(accuracy.correct_int8),
        evaluated=accuracy.num_images,
        agreement=accuracy.percentage(accuracy.agreeing),
        error=relative_error,
        float_ms=float_ms,
        int8_ms=int8_ms,
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
        source = scratch / "float.onnx"
        backend.export(model, source, example)
        return source
    if not isinstance(model, str | Path):
        raise ExportError(
            f"`model` must be a torch.nn.Module or the path of an exported file; got {type(model).__name__}."
        )
    source = Path(model).expanduser()
    if source.suffix not in backend.sources:
        raise ExportError(
            f"{source} should end in {' or '.join(map(repr, backend.sources))}; export the network first."
        )
    if not source.is_file():
        raise ExportError(
            f"the file {source} does not exist; export the network to it first, or pass the network itself."
        )
    return source


def _files_of(backend: Int8Backend, source: Path) -> list[Path]:
    # An ONNX file of a large network has its weights in a second file, <name>.onnx.data.
    others = [*(source.with_suffix(suffix) for suffix in backend.companions), source.with_name(f"{source.name}.data")]
    return [source, *(file for file in others if file.is_file() and file != source)]


def check_no_loop(source: Path, operators: Iterable[str]) -> None:
    """Raise ExportError if the operators of a float file include a loop, whose body the tools do not quantise.

    An ONNX file that is one loop over the samples is quantised all the same, see `write_one_sample`.
    """
    if not LOOPS.isdisjoint(operators):
        raise ExportError(
            f"{source} computes one sample at a time in a loop, which cannot be quantised; pass the network itself, or "
            f"its ONNX file."
        )


def check_takes_floats(source: Path, element_types: Iterable[str]) -> None:
    """Raise ExportError if a float file takes pixels, which are not what calibration images are."""
    if any(name in ("uint8", "u8") for name in element_types):
        raise ExportError(
            f"{source} takes pixels, and calibration images are normalised; pass the network itself, or a file "
            f"exported without `preprocessing`."
        )


def one_by_one(images: Iterable[Tensor]) -> list[Tensor]:
    """Return the images of some batches as batches of one."""
    return [image[None] for batch in images for image in batch]


def _input_shape(backend: Int8Backend, source: Path) -> Shape:
    try:
        shapes = backend.input_shapes(source)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"{backend.runtime} cannot read {source}: {first_line(error)}") from error
    if len(shapes) != 1:
        raise ExportError(f"the network has {len(shapes)} inputs; only networks with one input can be quantised.")
    return shapes[0]


def _load(backend: Int8Backend, file: Path) -> Run:
    try:
        return backend.load(file)
    except Exception as error:
        raise ExportError(f"{backend.runtime} cannot load {file.name}: {first_line(error)}") from error


def _outputs(run: Run, images: Tensor, dtype: str) -> list[Tensor]:
    try:
        outputs = [torch.as_tensor(each).double() for each in run(images)]
    except Exception as error:
        shape = "x".join(map(str, images.shape))
        raise ExportError(f"the {dtype} network cannot be run at {shape}: {first_line(error)}") from error
    if not all(bool(each.isfinite().all()) for each in outputs):
        raise ExportError(
            f"the {dtype} network gives NaN or infinite outputs; "
            + ("train or repair it before quantising it." if dtype == "float" else "nothing was written.")
        )
    return outputs


def _relative_error(backend: Int8Backend, float_run: Run, int8_run: Run, images: Iterable[Tensor]) -> float:
    """Return ``|int8 - float| / |float|``, Euclidean over the images, the largest over the outputs."""
    error: dict[int, float] = {}
    norm: dict[int, float] = {}
    for batch in images:
        float_outputs, int8_outputs = _outputs(float_run, batch, "float"), _outputs(int8_run, batch, "int8")
        if [each.shape for each in float_outputs] != [each.shape for each in int8_outputs]:
            raise ExportError(f"the int8 and the float network give different shapes of outputs in {backend.runtime}.")
        for position, (want, got) in enumerate(zip(float_outputs, int8_outputs, strict=True)):
            error[position] = error.get(position, 0.0) + float(((got - want) ** 2).sum())
            norm[position] = norm.get(position, 0.0) + float((want**2).sum())
    return max(math.sqrt(error[each] / norm[each]) if norm[each] else math.sqrt(error[each]) for each in error)


def _check_batches(backend: Int8Backend, int8_run: Run, images: Sequence[Tensor], shape: Shape) -> tuple[int, ...]:
    """Run the int8 network at each of `BATCHES` if its batch size is free, and return the batch sizes that were run."""
    if shape[0] is not None:
        return (shape[0],)
    for size in BATCHES:
        batch = images[0][torch.arange(size) % len(images[0])]
        if any(len(output) != size for output in _outputs(int8_run, batch, "int8")):
            raise ExportError(f"the int8 network does not give {size} results for {size} images in {backend.runtime}.")
    return BATCHES


def _milliseconds(runs: Sequence[Run], images: Tensor) -> list[float]:
    """Return the median time of a call of each function; the functions take turns."""
    times = time_in_turns({str(i): partial(run, images) for i, run in enumerate(runs)}, _TIMED_ROUNDS, warmup=2)
    return [1e3 * statistics.median(each) for each in times.values()]


class _Accuracy:
    """Accuracy of the float and the int8 network, measured in one pass over a loader."""

    def __init__(self) -> None:
        self.num_images = self.correct_float = self.correct_int8 = self.agreeing = 0

    def measure(self, float_run: Run, int8_run: Run, loader: Iterable[tuple[Tensor, Tensor]], shape: Shape) -> None:
        for images, labels in _checked_batches(loader, shape):
            check_shapes([images], shape, "evaluation")
            float_classes = _classes(_outputs(float_run, images, "float"), labels)
            int8_classes = _classes(_outputs(int8_run, images, "int8"), labels)
            self.num_images += len(labels)
            self.correct_float += int((float_classes == labels).sum())
            self.correct_int8 += int((int8_classes == labels).sum())
            self.agreeing += int((float_classes == int8_classes).sum())

    def check(self, max_drop: float | None) -> None:
        drop = 100 * (self.correct_float - self.correct_int8) / self.num_images
        if max_drop is not None and drop > max_drop:
            raise ExportError(
                f"int8 loses {drop:.2f} points of accuracy, more than max_drop={max_drop}; nothing was written. Give "
                f"more calibration images, or keep the sensitive layers in float32 with `ignored`."
            )

    def percentage(self, count: int) -> float | None:
        """Return ``count`` in per cent of the evaluated images; None if no image was evaluated."""
        return 100 * count / self.num_images if self.num_images else None


def _checked_batches(loader: Iterable[tuple[Tensor, Tensor]], shape: Shape) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of a loader; raise ExportError if a batch does not have the network's fixed batch size."""
    for images, labels in loader:
        if shape[0] is not None and len(images) != shape[0]:
            raise ExportError(
                f"the network's batch size is fixed to {shape[0]}, but the loader in `evaluate` gives {len(images)} "
                f"images; use batches of {shape[0]} and drop_last=True, or export with a free batch size."
            )
        yield images, labels


def _classes(outputs: list[Tensor], labels: Tensor) -> Tensor:
    if len(outputs) != 1 or outputs[0].dim() != 2:
        shapes = ", ".join(str(tuple(each.shape)) for each in outputs)
        raise ExportError(f"accuracy is measured on one output (B, classes); the outputs of the network are {shapes}.")
    if not 0 <= int(labels.min()) <= int(labels.max()) < outputs[0].shape[1]:
        raise ExportError(
            f"the labels in `evaluate` range from {int(labels.min())} to {int(labels.max())}, but the network has "
            f"{outputs[0].shape[1]} classes."
        )
    return outputs[0].argmax(1)
