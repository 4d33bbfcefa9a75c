"""What the inference benchmark measures, how each candidate is loaded, and how its process answers."""

import argparse
import contextlib
import itertools
import os
import re
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from _families import native_networks, networks
from _runtimes import (
    SUFFIXES,
    built,
    compiled,
    exported,
    file_bytes,
    give_back_memory,
    no_fallback,
    session,
    timm_name,
    weight_bytes,
)
from _turns import burst

RUNTIMES = {
    "eager": "PyTorch",
    "compile": "torch.compile",
    "native": "native",
    "ort": "ONNX Runtime",
    "openvino": "OpenVINO",
}
ARCHITECTURES = {
    **{f"mobilenetv2_{int(100 * width):03d}": f"MobileNetV2 x{width}" for width in (1.0, 0.5, 0.35, 0.75, 1.4)},
    **{f"resnet{depth}": f"ResNet-{depth}" for depth in (18, 50, 10, 34, 101)},
}
DEFAULT_ARCHITECTURES = ("mobilenetv2_100", "resnet18", "mobilenetv2_050", "resnet50")
SITUATIONS = ((1, 2), (16, 2), (1, 1), (16, 1), (4, 2), (4, 1))
"""Batches and threads, the most interesting first."""
BASELINE = ("static", "ort")
"""What all runtimes are compared with: the static network as most people would ship it."""
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of the benchmark: a network in a runtime, in a situation."""

    architecture: str
    side: int
    batch: int
    threads: int
    network: str
    runtime: str

    @property
    def which(self) -> tuple[str, str]:
        return self.network, self.runtime

    @property
    def label(self) -> str:
        return f"{networks()[self.network]}, {RUNTIMES[self.runtime]}"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Cells whose processes are alive at once and take turns."""

    cells: tuple[Cell, ...]
    rank: float

    @property
    def title(self) -> str:
        cell = self.cells[0]
        runtimes = ", ".join(RUNTIMES[name] for name in dict.fromkeys(each.runtime for each in self.cells))
        return f"{ARCHITECTURES[cell.architecture]}, batch {cell.batch}, {cell.threads} thread(s): {runtimes}"


# Compiling takes minutes a group, so that is done last.
_COMPILE_RANK = 4.5


def groups(args: argparse.Namespace) -> list[Group]:
    """Everything that is asked for, the most interesting first, so that a run that is stopped has that."""
    found: list[Group] = []
    known = {situation: rank for rank, situation in enumerate(SITUATIONS)}
    for place, architecture in enumerate(args.architectures):
        for batch, threads in itertools.product(args.batch, args.threads):
            rank: float = place + known.get((batch, threads), len(known))
            for runtimes, later in (([n for n in args.runtimes if n != "compile"], 0.0), (["compile"], _COMPILE_RANK)):
                cells = tuple(
                    Cell(
                        architecture=architecture,
                        side=args.side,
                        batch=batch,
                        threads=threads,
                        network=network,
                        runtime=runtime,
                    )
                    for network in args.networks
                    for runtime in runtimes
                    if runtime in args.runtimes and (runtime != "native" or network in native_networks())
                )
                if cells:
                    found.append(Group(cells=cells, rank=rank + later))
    return sorted(found, key=lambda unit: unit.rank)


@dataclass(kw_only=True)
class Loaded:
    """What a candidate's process holds.

    Attributes:
        runs: What can be run once, by key.
        size: Bytes of the file or of the weights.
        imported: Bytes of memory that the process had before it loaded a network.
    """

    runs: dict[str, Callable[[], Any]]
    size: int = 0
    imported: int = 0


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a process answers when it had its turn.

    Attributes:
        ms: Median of some calls.
        peak: Most bytes of memory it has held since it was loaded.
        idle: Share of a processor that it took while others had their turns.
        others: Share of all processors that other programs, or other guests of the host, took in its turn.
    """

    ms: float
    peak: int
    idle: float
    others: float


def load_cell(cell: Cell, folder: Path) -> Loaded:
    """The network ready to run, in this process."""
    size = (cell.batch, 3, cell.side, cell.side)
    name = timm_name(cell.network, cell.architecture)
    if cell.runtime in SUFFIXES:
        __import__("onnxruntime" if cell.runtime == "ort" else "openvino")
        imported = resident()
        path = exported(folder, cell.runtime, name, cell.side)
        run = session(path, cell.runtime, size, cell.threads)[1]
        return Loaded(runs={"run": run}, size=file_bytes(path), imported=imported)
    import torch

    import dynaconv.models  # noqa: F401  # part of what is resident
    from dynaconv import deploy

    torch.set_num_threads(cell.threads)
    if cell.runtime == "compile":
        compiled(torch.nn.Identity(), folder)
    x = torch.randn(size)
    if cell.runtime == "native":
        # As its kernels like images best; they give such ones too.
        x = x.contiguous(memory_format=torch.channels_last)
    imported = resident()
    with no_fallback():
        network = deploy(built(name), size, inplace=True, backend="native" if cell.runtime == "native" else "torch")
    weights = weight_bytes(network)
    call = compiled(network, folder) if cell.runtime == "compile" else network
    return Loaded(runs={"run": partial(inference, call, x)}, size=weights, imported=imported)


def inference(network: Callable[[Any], Any], x: Any) -> Any:
    """Run a network of torch once."""
    import torch

    with torch.inference_mode():
        return network(x)


def write_once(load: Callable[[], Any]) -> Generator[Any, Any, None]:
    """For processes that only leave files behind."""
    load()
    yield "done"


def compile_once(cell: Cell, folder: Path) -> None:
    """Fill the compiler's cache, and say so by a file."""
    load_cell(cell, folder).runs["run"]()
    compiled_mark(cell, folder).write_text("compiled\n")


def compiled_mark(cell: Cell, folder: Path) -> Path:
    """The file that says that a cell has been compiled."""
    name = timm_name(cell.network, cell.architecture)
    return folder / f"{name}_{cell.side}_batch{cell.batch}_threads{cell.threads}.compiled"


def serve_turns(load: Callable[[], Loaded], calls: int, *, compiling: bool) -> Generator[Any, str, None]:
    """Answer each key with a `Turn`: a burst of calls of what it names."""
    loaded = load()
    if compiling:
        for run in loaded.runs.values():
            run()
    give_back_memory()
    held = resident()
    reset_peak()
    for run in loaded.runs.values():
        run()
    key = yield {"size": loaded.size, "imported": loaded.imported, "loaded": held}
    processor, clock = time.process_time(), time.perf_counter()
    while True:
        # A pool may spin for some milliseconds after its last call; what it does later is what others would feel.
        idle = (time.process_time() - processor) / max(time.perf_counter() - clock, 1e-9)
        own, start_of_turn, everybody = time.process_time(), time.perf_counter(), busy_seconds()
        ms = burst(loaded.runs[key], calls=calls, seconds=BURST_SECONDS)
        processor, clock = time.process_time(), time.perf_counter()
        others = busy_seconds() - everybody - (processor - own)
        others = max(0.0, others) / (clock - start_of_turn) / (os.cpu_count() or 1)
        key = yield Turn(ms=ms, peak=peak(), idle=idle, others=others)


BURST_SECONDS = 0.3


def _status(field_name: str) -> int:
    with contextlib.suppress(OSError):
        found = re.search(rf"^{field_name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    return 0


def busy_seconds() -> float:
    """Seconds that all processors together have worked since the system started, those that the host took included."""
    with contextlib.suppress(OSError):
        user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9])
        return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")
    return 0.0


def resident() -> int:
    """Bytes of memory that this process holds; 0 where the system does not tell."""
    return _status("VmRSS")


def peak() -> int:
    """The most bytes since `reset_peak`."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Let the peak start from what is held now; some containers do not allow it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
