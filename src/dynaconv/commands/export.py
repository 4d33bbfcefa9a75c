"""``dynaconv export``: write a network as a file for another runtime, and verify it in that runtime."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynaconv.commands import _arguments as shared
from dynaconv.commands._int8 import add_flags, check_flags, export_int8
from dynaconv.commands._network import LoadedNetwork, load_network
from dynaconv.commands._shared import add_command, check_output
from dynaconv.errors import RunError, listed

if TYPE_CHECKING:
    from dynaconv.export import ExportReport

_EPILOG = (
    "The file is kept only if its runtime computes the same outputs as the network. onnx, openvino, pt2 and aoti leave "
    "the batch size free, and height and width if the network allows it; executorch leaves the batch size free up to "
    "--max-batch; litert has one signature for each of --batches. Files of onnx and openvino hold class names and "
    "normalisation. See docs/export.md, docs/native.md, docs/export-mobile.md and docs/int8.md."
)


@dataclass(frozen=True)
class _Format:
    """Suffixes of a format's files, the one of ``--out`` first, and the flags that not all formats have."""

    suffixes: tuple[str, ...]
    flags: tuple[str, ...]


# Those of `native=True`, in dynaconv.export, which imports torch.
_PRECISIONS = ("float32", "bf16", "int8")
_FREE = ("fixed_batch", "fixed_size")
_FORMATS = {
    "onnx": _Format((".onnx",), (*_FREE, "native", "precision", "preprocessing")),
    "openvino": _Format((".xml", ".bin"), (*_FREE, "native", "precision", "preprocessing")),
    "pt2": _Format((".pt2",), _FREE),
    "aoti": _Format((".pt2",), _FREE),
    "executorch": _Format((".pte",), ("max_batch",)),
    "litert": _Format((".tflite",), ("batches",)),
}


def add(commands: Any) -> None:
    """Add ``dynaconv export``."""
    command = add_command(commands, "export", "write a network for another runtime", run, _EPILOG)
    command.set_defaults(writes_by_default=True)
    shared.add_checkpoint(command, names=True)
    command.add_argument("--format", choices=tuple(_FORMATS), required=True, help="format of the file")
    shared.add_out(command, "file to write; by default the model's name, in the current folder")
    shared.add_size(command)
    command.add_argument("--fixed-batch", action="store_true", help="fix the batch size at 1")
    command.add_argument("--fixed-size", action="store_true", help="fix height and width")
    command.add_argument(
        "--native", action="store_true", help="onnx and openvino: write operators of the native kernels"
    )
    command.add_argument("--precision", choices=_PRECISIONS, help="with --native: of the weights (float32)")
    command.add_argument(
        "--preprocessing",
        action="store_true",
        help="onnx and openvino: the file takes uint8 pixels (B, H, W, C) and normalises them",
    )
    command.add_argument(
        "--max-batch", metavar="N", type=shared.integer(1), help="executorch: the largest batch size (8)"
    )
    command.add_argument(
        "--batches", metavar="N", type=shared.integer(1), nargs="+", help="litert: batch sizes, one signature each (1)"
    )
    shared.add_option(command, "--option", "an argument of the model")
    add_flags(command)


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Write the file, and print the report of its verification."""
    from dynaconv.console import make_console

    format_options = _format_options(arguments)
    check_flags(arguments)
    if arguments.precision and not arguments.native:
        raise RunError("--precision goes with --native.")
    if arguments.out is not None:
        _check_target(arguments.out, arguments.format, overwrite=arguments.overwrite)
    options = shared.parse_options(arguments.option)
    network = load_network(arguments.checkpoint, arguments.size, options)
    out = arguments.out
    if out is None:
        # torch.export and AOTInductor write files with the same suffix.
        suffix = (".aoti" if arguments.format == "aoti" else "") + _FORMATS[arguments.format].suffixes[0]
        out = Path(network.name.replace("/", "_") + (f".int8{suffix}" if arguments.int8 else suffix))
        _check_target(out, arguments.format, overwrite=arguments.overwrite)
    console = make_console(soft_wrap=True)
    if arguments.int8:
        console.print(str(export_int8(arguments, network, out)), markup=False)
        return
    if network.metadata is None and not options.get("pretrained"):
        console.print(f"{network.name} has random weights; give a trained run for trained ones.", markup=False)
    report = _export(arguments.format, network, out, overwrite=arguments.overwrite, **format_options)
    console.print(str(report), markup=False)


def _format_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the given options of the format; raise RunError for an option of another format."""
    format_options = {}
    for name in dict.fromkeys(flag for form in _FORMATS.values() for flag in form.flags):
        value = getattr(arguments, name)
        if value is None or value is False:
            continue
        if name not in _FORMATS[arguments.format].flags:
            supporting = [key for key, form in _FORMATS.items() if name in form.flags]
            flag = f"--{name.replace('_', '-')}"
            raise RunError(f"{flag} belongs to {listed(supporting, quote=False)}; {arguments.format} does not have it.")
        format_options[name] = value
    return format_options


def _check_target(out: Path, form: str, *, overwrite: bool) -> None:
    first, *others = _FORMATS[form].suffixes
    if out.suffix != first:
        raise RunError(f"{form} files end in {first}; got {out}.")
    for suffix in (first, *others):
        check_output(out.with_suffix(suffix), overwrite)


def _export(
    form: str,
    network: LoadedNetwork,
    out: Path,
    *,
    overwrite: bool,
    fixed_batch: bool = False,
    fixed_size: bool = False,
    native: bool = False,
    precision: str = "float32",
    preprocessing: bool = False,
    max_batch: int | None = None,
    batches: Sequence[int] | None = None,
) -> "ExportReport":
    import torch

    # Values like those of normalised images. A fixed batch size is that of the example.
    example = torch.randn(1, *network.size, generator=torch.Generator().manual_seed(0))
    if form == "executorch":
        from dynaconv.export.executorch import export_executorch

        bound = {} if max_batch is None else {"max_batch": max_batch}
        return export_executorch(network.model, out, example, overwrite=overwrite, **bound)
    if form == "litert":
        from dynaconv.export.litert import export_litert

        sizes = {} if batches is None else {"batches": batches}
        return export_litert(network.model, out, example, overwrite=overwrite, **sizes)
    further: dict[str, Any] = {}
    if form in ("onnx", "openvino"):
        further = {"native": native, "precision": precision, "preprocessing": preprocessing}
        further["info"] = network.image_info()
        if preprocessing and further["info"] is None:
            raise RunError(
                f"--preprocessing needs the mean and std of the images, and {network.name} has none for "
                f"{network.size[0]} channels; give a trained run."
            )
    return _free_exporter(form)(
        network.model,
        out,
        example,
        batch=1 if fixed_batch else None,
        free_size=False if fixed_size else "auto",
        overwrite=overwrite,
        **further,
    )


def _free_exporter(form: str) -> "Callable[..., ExportReport]":
    if form == "onnx":
        from dynaconv.export.onnx import export_onnx

        return export_onnx
    if form == "openvino":
        from dynaconv.export.openvino import export_openvino

        return export_openvino
    if form == "pt2":
        from dynaconv.export.program import export_program

        return export_program
    from dynaconv.export.aot import export_aoti

    return export_aoti
