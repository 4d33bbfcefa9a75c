"""Networks as each runtime runs them: built, deployed, exported, opened."""

import contextlib
import ctypes
import gc
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIXES = {"ort": ".onnx", "openvino": ".xml"}
"""Of the files that runtimes other than torch open."""
WARM_UP_PASSES = 10
WARM_UP_BATCH = 8
CALIBRATION_IMAGES = 8


def session(
    path: Path, runtime: str, size: tuple[int, ...], threads: int, *, free: bool = False, **options: Any
) -> tuple[Any, Callable[[], Any]]:
    """What runs an exported file, and a function that lets it run once.

    Args:
        path, runtime, threads, options: See `opened`.
        size: Of the images.
        free: OpenVINO: leave the batch free, in place of reshaping the network to `size`.
    """
    import numpy as np

    images = np.random.default_rng(0).standard_normal(size, np.float32)
    source, run = opened(path, runtime, threads, size=None if free else size, **options)
    return source, partial(run, images)


def opened(
    path: Path,
    runtime: str,
    threads: int,
    *,
    size: tuple[int, ...] | None = None,
    profile: bool = False,
    native: bool = False,
    precision: str = "f32",
) -> tuple[Any, Callable[[Any], Any]]:
    """What runs an exported file of one input, and a function of the images that gives the outputs by their number.

    Args:
        path: The file.
        runtime: ``ort`` or ``openvino``.
        threads: Number of threads.
        size: OpenVINO: reshape the network to images of this size.
        profile: Whether the first result knows the times.
        native: Whether the file has operators of the native kernels.
        precision: OpenVINO: ``f32``, or ``default`` for the precision that it chooses.
    """
    if runtime == "ort":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        options.enable_profiling = profile
        options.profile_file_prefix = str(path.with_suffix(""))
        if native:
            from dynaconv.native import extension

            options.register_custom_ops_library(str(extension("onnxruntime")))
        running = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = running.get_inputs()[0].name
        return running, lambda images: running.run(None, {name: images})
    import openvino

    core = openvino.Core()
    if native:
        from dynaconv.native import extension

        core.add_extension(extension("openvino"))
    network = core.read_model(path)
    if size is not None:
        network.reshape(list(size))
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if precision != "default":
        settings["INFERENCE_PRECISION_HINT"] = precision
    request = core.compile_model(network, "CPU", settings | {"PERF_COUNT": profile}).create_infer_request()
    return request, lambda images: request.infer([images])


@contextlib.contextmanager
def no_fallback() -> Iterator[None]:
    """Native kernels that cannot be compiled are a failure here, not torch under another name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*run in torch instead", category=RuntimeWarning)
        yield


def processors() -> str:
    """The number of processors and their load, for the conditions of a measurement."""
    return f"{os.cpu_count()} CPUs, load {', '.join(f'{value:.1f}' for value in os.getloadavg())}"


def timm_name(network: str, architecture: str) -> str:
    """Such as `dcd_mobilenetv2_100_published` for the network `dcd_published`."""
    family = network.removesuffix("_published")
    return f"{family}_{architecture}{network.removeprefix(family)}"


def built(name: str, **options: Any) -> "nn.Module":
    """A network of 1000 classes in eval mode, with initial weights that do not change what is computed.

    Dynamic layers start almost neutral: with the initial weights of a KernelWarehouse branch, an untrained deep network
    amplifies rounding errors until no export can be verified. No norm starts from a scale of zero, which `deploy`
    cannot fold into squeeze-and-excitation.
    """
    import timm
    import torch

    import dynaconv.models  # noqa: F401  # registers the names
    from dynaconv.deployment.norm_pairs import fill_zero_norms
    from dynaconv.families.contract.operator import DynamicOperator

    torch.manual_seed(0)
    network = timm.create_model(name, **options).eval()
    for module in network.modules():
        if isinstance(module, DynamicOperator):
            layer: Any = module
            layer._neutralise()
            for parameter in layer.branch.parameters():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.005)
    fill_zero_norms(network)
    return network


def warm_up(network: "nn.Module", example: "Tensor", batch: int = WARM_UP_BATCH) -> None:
    """Make the running statistics those of images like the example.

    Fresh ones let the published structure multiply rounding errors up, so that no export can be checked.
    """
    import torch

    from dynaconv.export.verify import random_inputs

    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    network.train()
    with torch.no_grad():
        for number in range(WARM_UP_PASSES):
            network(*random_inputs(example, batch, seed=100 + number))
    network.eval()


def exported(
    folder: Path, runtime: str, name: str, side: int, form: str = "", options: Mapping[str, Any] | None = None
) -> Path:
    """The file of a deployed network, built with these options, written where it is not there yet; its batch is free.

    OpenVINO's file is made of the ONNX file, as `export_openvino` does; those of the native kernels and int8 are not.
    `form` is `as_it_stands` for a network that is not rewritten, `native` or `native_int8` for one native operator,
    `half` for half precision, `int8` for a network quantised with random images.
    """
    path = exported_path(folder, runtime, name, side, form, options)
    if path.exists():
        return path
    import torch

    from dynaconv import deploy, export_onnx, export_openvino
    from dynaconv.export import quantize_onnx, quantize_openvino
    from dynaconv.export.openvino import convert_onnx_file
    from dynaconv.export.verify import random_inputs

    torch.set_num_threads(1)
    if runtime == "openvino" and form in ("", "as_it_stands", "half"):
        half = form == "half"
        convert_onnx_file(exported(folder, "ort", name, side, "" if half else form, options), path, half=half)
        return path
    network = built(name, **(options or {}))
    example = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    warm_up(network, example)
    if form == "int8":
        quantize = quantize_onnx if runtime == "ort" else quantize_openvino
        images = random_inputs(example, CALIBRATION_IMAGES)
        quantize(deploy(network, inplace=True), path, images)
        return path
    write = export_onnx if runtime == "ort" else export_openvino
    settings: dict[str, Any] = {"rewrite": form != "as_it_stands", "half": form == "half"}
    if form in ("native", "native_int8"):
        settings |= {"native": True, "precision": "int8" if form == "native_int8" else "float32"}
    write(deploy(network, inplace=True), path, example, free_size=False, **settings)
    return path


@contextlib.contextmanager
def kept(folder: Path | None) -> Iterator[Path]:
    """A folder for exported files: the one that is named, or one that is gone afterwards."""
    if folder is None:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder


def exported_path(
    folder: Path, runtime: str, name: str, side: int, form: str = "", options: Mapping[str, Any] | None = None
) -> Path:
    """Return the path of a network's file."""
    given = {**(options or {}), **(options or {}).get("family_options", {})}
    told = [f"{key}{value}" for key, value in given.items() if key != "family_options"]
    return folder / f"{'_'.join(filter(None, (name, str(side), form, *told)))}{SUFFIXES[runtime]}"


def file_bytes(path: Path) -> int:
    """Size of an exported file and of the one with its weights beside it."""
    beside = [path.with_suffix(".bin")] if path.suffix == ".xml" else [path.with_name(path.name + ".data")]
    return sum(each.stat().st_size for each in (path, *beside) if each.exists())


def give_back_memory() -> None:
    """Return freed memory to the system where the C library can; else a dozen networks hold many gigabytes of it."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def weight_bytes(network: "nn.Module") -> int:
    """Size of the parameters and buffers."""
    return sum(each.numel() * each.element_size() for each in (*network.parameters(), *network.buffers()))


def compiled(network: "nn.Module", folder: Path) -> "nn.Module":
    """The network under `torch.compile`, for fixed sizes; what is compiled is kept in the folder."""
    # Read when the compiler is imported. A pool of compiling processes would outlive the compilation.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str((folder / "inductor").resolve())
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    import torch
    import torch._inductor.compile_fx

    return torch.compile(network, dynamic=False)  # type: ignore[return-value]
