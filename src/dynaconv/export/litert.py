"""Exports networks as LiteRT models (``.tflite``) for phones."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.errors import ExportError
from dynaconv.export._traced import external_tool, trace
from dynaconv.export.capture import frozen_copy
from dynaconv.export.packages import require, versioned
from dynaconv.export.report import Check, ExportReport
from dynaconv.export.target import verified_target
from dynaconv.export.verify import LIMIT, as_inputs, named_outputs, random_inputs, verify
from dynaconv.families.contract.checks import check_integer

_PROGRESS = "LITERT_TORCH_SHOW_PROGRESS"


def export_litert(
    model: nn.Module,
    path: str | Path,
    example: Tensor | Sequence[Tensor],
    *,
    batches: Sequence[int] = (1,),
    overwrite: bool = False,
) -> ExportReport:
    """Write a LiteRT model, and keep it only if its outputs match the network's.

    litert-torch fixes every shape. The file contains one signature per batch size, ``batch_1``, ``batch_8`` and so on.
    Images are channels first and have the height and width of ``example``.

    Args:
        model: Any network; it is not changed.
        path: The ``.tflite`` file to write.
        example: Input of the network, ``(B, C, H, W)`` with any batch size, or a tuple of inputs.
        batches: The batch sizes to write; each makes the file larger.
        overwrite: Whether an existing file may be replaced.

    Returns:
        A report on the file; its `outputs` are the names in the file, in the network's order.

    Raises:
        ExportError: litert-torch is not installed or does not support the network, the file cannot be written, or its
            outputs differ from the network's. No file is left.
    """
    sizes = _checked(batches)
    require("litert_torch", "ai_edge_litert", extra="litert", needed_by="export_litert")
    inputs = as_inputs(example)
    with verified_target(path, suffixes=(".tflite",), overwrite=overwrite) as file:
        frozen = frozen_copy(model)
        with external_tool("litert-torch"), _without_progress():
            _convert(frozen, inputs, sizes).export(str(file))
        outputs = tuple(named_outputs(frozen(*inputs)))
        runtime = versioned("ai-edge-litert", "LiteRT")
        checks: tuple[Check, ...] = ()
        for size in sizes:
            checks += verify(_runner(file, size, outputs), frozen, inputs, runtime=runtime, batches=(size,))
    target = Path(path).expanduser()
    names = ", ".join(f"batch_{size}" for size in sizes)
    return ExportReport(
        format="LiteRT",
        runtime=runtime,
        path=target,
        files=(target,),
        inputs={_input_name(i): (sizes[0], *each.shape[1:]) for i, each in enumerate(inputs)},
        outputs=outputs,
        free_axes=(),
        checks=checks,
        limit=LIMIT,
        notes=(f"litert-torch fixes the batch size; the file has the signatures {names}; pass batches for others.",),
    )


def _checked(batches: Sequence[int]) -> tuple[int, ...]:
    if not batches:
        raise ExportError("`batches` is empty; pass one or more batch sizes.")
    return tuple(dict.fromkeys(check_integer("each of `batches`", size, error=ExportError) for size in batches))


def _convert(frozen: nn.Module, inputs: tuple[Tensor, ...], sizes: tuple[int, ...]) -> Any:
    converter = import_module("litert_torch").Converter()
    for size in sizes:
        drawn = random_inputs(inputs, size)
        graph = trace(_NamedOutputs(frozen), drawn).module()
        # litert-torch warns about modules in training mode; an exported module has no `eval()` and does not need it.
        graph.training = False
        converter.add_signature(f"batch_{size}", graph, drawn)
    with torch.no_grad():
        return converter.convert()


class _NamedOutputs(nn.Module):
    """Returns the outputs of a network as a dictionary, with the names that they get in the file."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        return named_outputs(self.network(*inputs))


def _interpreter(file: Path) -> Any:
    return import_module("ai_edge_litert.interpreter").Interpreter(str(file))


def _runner(file: Path, size: int, outputs: tuple[str, ...]) -> Callable[..., list[Any]]:
    signature = _interpreter(file).get_signature_runner(f"batch_{size}")

    def run(*inputs: Tensor) -> list[Any]:
        got = signature(**{_input_name(i): each.numpy() for i, each in enumerate(inputs)})
        return [got[name] for name in outputs]

    return run


def _input_name(position: int) -> str:
    """Return the name that litert-torch gives to an input."""
    return f"args_{position}"


@contextmanager
def _without_progress() -> Iterator[None]:
    """Keep litert-torch from printing each of its steps."""
    before = os.environ.get(_PROGRESS)
    os.environ[_PROGRESS] = "n"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_PROGRESS]
        else:
            os.environ[_PROGRESS] = before
