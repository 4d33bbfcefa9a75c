"""Compiles the kernels, once for each version of the sources.

A library serves one host, such as torch. It is stored in ``$XDG_CACHE_HOME/dynaconv/native`` or
``~/.cache/dynaconv/native``, in a folder named by a digest of the sources, flags, compiler and host. DYNACONV_CACHE
sets another place, DYNACONV_CXXFLAGS adds flags. A wheel may contain prebuilt libraries for torch and ONNX Runtime next
to this file (``hatch_build.py`` compiles them); their names contain a digest of the sources.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dynaconv.errors import DynaconvError
from dynaconv.files import replacing
from dynaconv.progress import step

SOURCES = Path(__file__).parent / "csrc"
FLAGS = ("-O3", "-std=c++20", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi")
_ISA_FLAGS = {
    "isa_avx512": ("-march=x86-64-v4",),
    "isa_avx2": ("-march=x86-64-v3",),
    "isa_avx512_vnni": ("-march=x86-64-v4", "-mavx512vnni"),
    "isa_avx_vnni": ("-march=x86-64-v3", "-mavxvnni"),
}


class BuildError(DynaconvError):
    """The kernels cannot be compiled here."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """A runtime that loads the kernels as a library.

    Attributes:
        name: Its binding is ``csrc/binding_<name>.cpp``.
        version: A library is compiled again if it changes.
        compiler_flags: Flags to compile the binding.
        linker_flags: Flags to link the library.
    """

    name: str
    version: str
    compiler_flags: tuple[str, ...]
    linker_flags: tuple[str, ...]


def torch_host() -> Host:
    """Return the host torch; its stable ABI serves every version from the oldest supported one on."""
    folder = Path(torch.__file__).parent
    return Host(
        name="torch",
        version=torch.__version__,
        compiler_flags=(f"-isystem{folder / 'include'}", "-DTORCH_TARGET_VERSION=0x020a000000000000"),
        linker_flags=(f"-L{folder / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"),
    )


def compiler() -> list[str]:
    """Return the command of the C++ compiler: ``$CXX``, which may have arguments (``ccache g++``), or g++ or clang++.

    Raises:
        BuildError: There is no compiler, or the one that CXX names does not exist.
    """
    command = shlex.split(os.environ.get("CXX", ""))
    if command:
        if not shutil.which(command[0]):
            raise BuildError(
                f"the native backend needs a C++ compiler; {command[0]}, which CXX names, is not installed."
            )
        return command
    for name in ("g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise BuildError("the native backend needs a C++ compiler; install g++ or clang++, or set CXX to one.")


def build(host: Host | None = None, *, verbose: bool = False) -> Path:
    """Return the path of the compiled library; compile it if it is not in the cache.

    Args:
        host: Host of the library; default: torch.
        verbose: Print the compiler's commands.

    Raises:
        BuildError: There is no compiler, torch is too old, or the compiler fails; the message ends with its output.
    """
    check_platform()
    host = torch_host() if host is None else host
    command = _command()

    def link(scratch: Path) -> Path:
        return _link(command, host, _cached(_fingerprint(command), "kernels.o", kernels), scratch, verbose=verbose)

    def kernels(scratch: Path) -> Path:
        return _compile_kernels(command, scratch, verbose=verbose)

    return _cached(_fingerprint(command, host.name, host.version), f"libdynaconv_{_label(host.name)}.so", link)


def _cached(digest: str, name: str, make: Callable[[Path], Path]) -> Path:
    """Return a file of the cache; make it if it is missing."""
    folder = _cache() / digest
    file = folder / name
    if not file.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Loading an incomplete library ends the process, so another process, or one after a power cut, finds none.
            with (
                step("compiling the native kernels, once"),
                tempfile.TemporaryDirectory(dir=folder) as scratch,
                replacing(file) as temporary,
            ):
                make(Path(scratch)).replace(temporary)
        except OSError as error:
            raise BuildError(
                f"{folder} cannot be written ({error.strerror}); set DYNACONV_CACHE to a writable folder."
            ) from error
    return file


def check_platform() -> None:
    """Check that the platform can run the kernels.

    Raises:
        BuildError: The platform is not Linux.
    """
    if sys.platform != "linux":
        raise BuildError(f"the native backend runs on Linux only; this is {sys.platform}.")


def onnxruntime_host() -> Host:
    """Return the host ONNX Runtime; ``csrc/onnxruntime_abi.h`` declares the part of its API that the kernels use."""
    return Host(name="onnxruntime", version="", compiler_flags=(), linker_flags=())


def prebuilt_library(host: str) -> Path | None:
    """Return the prebuilt library of the installed package for a host; None if there is none.

    It must be built from these sources for this processor architecture. It serves every version of the host from the
    oldest supported one on. If DYNACONV_CXXFLAGS is set, it is not used, since it was built without these flags.
    """
    library = SOURCES.parent / prebuilt_name(host)
    return library if library.is_file() and not os.environ.get("DYNACONV_CXXFLAGS") else None


def prebuilt_name(host: str) -> str:
    """Return the file name of the prebuilt library for a host in a wheel of these sources."""
    return f"libdynaconv_{_label(host)}-{platform.machine()}-{_sources_digest().hexdigest()[:16]}.so"


def compile_for_wheel(folder: Path) -> list[Path]:
    """Compile the prebuilt libraries of a wheel into a folder.

    Raises:
        BuildError: As for `build`.
    """
    check_platform()
    command = _command()
    kernels = _compile_kernels(command, folder, verbose=False)
    return [
        _link(command, host, kernels, folder, verbose=False).rename(folder / prebuilt_name(host.name))
        for host in (torch_host(), onnxruntime_host())
    ]


def _label(host: str) -> str:
    return "native" if host == "torch" else host


def _command() -> list[str]:
    return [*compiler(), *FLAGS, *os.environ.get("DYNACONV_CXXFLAGS", "").split()]


def _cache() -> Path:
    folder = os.environ.get("DYNACONV_CACHE")
    if folder:
        return Path(folder).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynaconv" / "native"


def _fingerprint(command: Sequence[str], *more: str) -> str:
    version = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=False).stdout
    digest = _sources_digest()
    digest.update("\n".join([*command, version, *more, platform.machine()]).encode())
    return str(digest.hexdigest())[:16]


def _sources_digest() -> Any:
    digest = hashlib.sha256()
    for file in sorted(SOURCES.iterdir()):
        digest.update(file.name.encode() + file.read_bytes())
    return digest


def _compile_kernels(command: Sequence[str], scratch: Path, *, verbose: bool) -> Path:
    """Compile all sources except the bindings to one object file, which the libraries of all hosts share."""
    x86 = platform.machine() in ("x86_64", "AMD64")
    jobs, objects = [], []
    for source in sorted(set(SOURCES.glob("*.cpp")) - set(SOURCES.glob("binding_*.cpp"))):
        extra = _ISA_FLAGS.get(source.stem, ()) if x86 else ()
        objects.append(str(scratch / f"{source.stem}.o"))
        jobs.append([*command, *extra, "-c", str(source), "-o", objects[-1]])
    _run(jobs, verbose=verbose)
    kernels = scratch / "kernels.o"
    _run([[*compiler(), "-r", "-nostdlib", *objects, "-o", str(kernels)]], verbose=verbose)
    return kernels


def _link(command: Sequence[str], host: Host, kernels: Path, scratch: Path, *, verbose: bool) -> Path:
    binding, library = scratch / "binding.o", scratch / "library.so"
    source = SOURCES / f"binding_{host.name}.cpp"
    _run([[*command, *host.compiler_flags, "-c", str(source), "-o", str(binding)]], verbose=verbose)
    objects = [str(binding), str(kernels)]
    _run([[*compiler(), "-shared", *objects, *host.linker_flags, "-o", str(library)]], verbose=verbose)
    return library


def _run(jobs: Sequence[Sequence[str]], *, verbose: bool) -> None:
    running: list[subprocess.Popen[str]] = []
    try:
        for job in jobs:
            if verbose:
                print(" ".join(job), flush=True)
            running.append(subprocess.Popen(job, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        outputs = [process.communicate()[0] for process in running]
    except BaseException:
        for process in running:
            with process:
                process.kill()
        raise
    for job, process, output in zip(jobs, running, outputs, strict=True):
        if process.returncode:
            first = next((line for line in output.splitlines() if "error" in line), output.strip()[-300:])
            first = first or f"{job[0]} failed with status {process.returncode}"
            raise BuildError(f"the native kernels do not compile here: {first}")
