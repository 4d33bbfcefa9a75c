"""Compile the kernels, once for each version of the sources.

A library serves one host, such as torch. It lies in a folder named for what it was made from (sources, flags,
compiler, host), below ``$XDG_CACHE_HOME/dynaconv`` or ``~/.cache/dynaconv``; DYNACONV_CACHE names another place.
DYNACONV_CXXFLAGS adds flags. A wheel may carry those for torch and ONNX Runtime beside this file (``hatch_build.py``
puts them there); their names say which sources they are of.
"""

import hashlib
import os
import platform
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dynaconv.errors import DynaconvError

SOURCES = Path(__file__).parent / "csrc"
FLAGS = ("-O3", "-std=c++20", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi")
_ISA_FLAGS = {"isa_avx512": "-march=x86-64-v4", "isa_avx2": "-march=x86-64-v3"}


class BuildError(DynaconvError):
    """The kernels cannot be compiled here."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """A program that loads the kernels as a library.

    Attributes:
        name: The kernels meet it in ``csrc/binding_<name>.cpp``.
        version: Of what its interface depends on.
        compiled: Flags for that file.
        linked: Flags for the library.
    """

    name: str
    version: str
    compiled: tuple[str, ...]
    linked: tuple[str, ...]


def torch_host() -> Host:
    """Torch, whose stable interface serves every version from the oldest supported one on."""
    folder = Path(torch.__file__).parent
    return Host(
        name="torch",
        version=torch.__version__,
        compiled=(f"-isystem{folder / 'include'}", "-DTORCH_TARGET_VERSION=0x020a000000000000"),
        linked=(f"-L{folder / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"),
    )


def compiler() -> list[str]:
    """The command of the C++ compiler: ``$CXX``, which may have arguments (``ccache g++``), or else g++ or clang++.

    Raises:
        BuildError: There is none, or not the one that CXX names.
    """
    own = shlex.split(os.environ.get("CXX", ""))
    if own:
        if not shutil.which(own[0]):
            raise BuildError(f"the native backend needs a C++ compiler, and CXX names {own[0]}, which there is not.")
        return own
    for name in ("g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise BuildError("the native backend needs a C++ compiler; install g++ or clang++, or set CXX to one.")


def build(host: Host | None = None, *, verbose: bool = False) -> Path:
    """The compiled library, made now where this has not been done before.

    Args:
        host: What it is for; torch where none is given.
        verbose: Print the compiler's commands.

    Raises:
        BuildError: There is no compiler, torch is too old, or the compiler fails; the message ends with what it said.
    """
    check_platform()
    host = torch_host() if host is None else host
    command = _command()

    def link(scratch: Path) -> Path:
        return _link(command, host, _kept(_fingerprint(command), "kernels.o", kernels), scratch, verbose=verbose)

    def kernels(scratch: Path) -> Path:
        return _compile_kernels(command, scratch, verbose=verbose)

    return _kept(_fingerprint(command, host.name, host.version), f"libdynaconv_{_label(host.name)}.so", link)


def _kept(folder: str, name: str, make: Callable[[Path], Path]) -> Path:
    """A file of the cache, made now where it is not there."""
    place = _cache() / folder
    file = place / name
    if not is_whole(file):
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place) as scratch:
                # In one step, so that another process never loads half a library.
                make(Path(scratch)).replace(file)
        except OSError as error:
            raise BuildError(f"{place} takes no files ({error.strerror}); set DYNACONV_CACHE to a folder.") from error
    return file


def check_platform() -> None:
    """Raise where no library can run, wherever it comes from.

    Raises:
        BuildError: This is not Linux.
    """
    if sys.platform != "linux":
        raise BuildError(f"the native backend is built on Linux only; this is {sys.platform}.")


def onnxruntime_host() -> Host:
    """ONNX Runtime; what is needed of its interface is stated in ``csrc/onnxruntime_abi.h`` and never changes."""
    return Host(name="onnxruntime", version="", compiled=(), linked=())


def shipped(host: str) -> Path | None:
    """The library that the installed package carries, where it is one of these sources for this kind of processor.

    It serves every version of its host from the oldest supported one on. Somebody who asks for compiler flags gets a
    library of his own.
    """
    library = SOURCES.parent / shipped_name(host)
    return library if is_whole(library) and not os.environ.get("DYNACONV_CXXFLAGS") else None


def shipped_name(host: str) -> str:
    """The name of the library that a wheel of these sources carries for a host."""
    return f"libdynaconv_{_label(host)}-{platform.machine()}-{_sources_digest().hexdigest()[:16]}.so"


def compile_for_wheel(folder: Path) -> list[Path]:
    """Compile the libraries that a wheel carries into a folder.

    Raises:
        BuildError: As for `build`.
    """
    check_platform()
    command = _command()
    kernels = _compile_kernels(command, folder, verbose=False)
    return [
        _link(command, host, kernels, folder, verbose=False).rename(folder / shipped_name(host.name))
        for host in (torch_host(), onnxruntime_host())
    ]


def _label(host: str) -> str:
    return "native" if host == "torch" else host


def is_whole(library: Path) -> bool:
    """Whether a file is a library that ends where its header says; loading half a one would end the process."""
    try:
        with library.open("rb") as file:
            head = file.read(64)
        if len(head) < 64 or head[:6] != b"\x7fELF\x02\x01":
            return False
        # The table of sections comes last.
        (offset,) = struct.unpack_from("<Q", head, 40)
        size, count = struct.unpack_from("<HH", head, 58)
        return bool(library.stat().st_size >= offset + size * count > 64)
    except OSError:
        return False


def _command() -> list[str]:
    return [*compiler(), *FLAGS, *os.environ.get("DYNACONV_CXXFLAGS", "").split()]


def _cache() -> Path:
    own = os.environ.get("DYNACONV_CACHE")
    if own:
        return Path(own).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynaconv" / "native"


def _fingerprint(command: Sequence[str], *more: str) -> str:
    said = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=False).stdout
    digest = _sources_digest()
    digest.update("\n".join([*command, said, *more, platform.machine()]).encode())
    return str(digest.hexdigest())[:16]


def _sources_digest() -> Any:
    digest = hashlib.sha256()
    for file in sorted(SOURCES.iterdir()):
        digest.update(file.name.encode() + file.read_bytes())
    return digest


def _compile_kernels(command: Sequence[str], scratch: Path, *, verbose: bool) -> Path:
    """All but the bindings, as one object file that every host's library takes."""
    x86 = platform.machine() in ("x86_64", "AMD64")
    jobs, objects = [], []
    for source in sorted(set(SOURCES.glob("*.cpp")) - set(SOURCES.glob("binding_*.cpp"))):
        extra = [_ISA_FLAGS[source.stem]] if x86 and source.stem in _ISA_FLAGS else []
        objects.append(str(scratch / f"{source.stem}.o"))
        jobs.append([*command, *extra, "-c", str(source), "-o", objects[-1]])
    _run(jobs, verbose=verbose)
    kernels = scratch / "kernels.o"
    _run([[*compiler(), "-r", "-nostdlib", *objects, "-o", str(kernels)]], verbose=verbose)
    return kernels


def _link(command: Sequence[str], host: Host, kernels: Path, scratch: Path, *, verbose: bool) -> Path:
    binding, library = scratch / "binding.o", scratch / "library.so"
    source = SOURCES / f"binding_{host.name}.cpp"
    _run([[*command, *host.compiled, "-c", str(source), "-o", str(binding)]], verbose=verbose)
    objects = [str(binding), str(kernels)]
    _run([[*compiler(), "-shared", *objects, *host.linked, "-o", str(library)]], verbose=verbose)
    return library


def _run(jobs: Sequence[Sequence[str]], *, verbose: bool) -> None:
    running = []
    for job in jobs:
        if verbose:
            print(" ".join(job), flush=True)
        running.append(subprocess.Popen(job, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    said = [process.communicate()[0] for process in running]
    for job, process, output in zip(jobs, running, said, strict=True):
        if process.returncode:
            first = next((line for line in output.splitlines() if "error" in line), output.strip()[-300:])
            first = first or f"{job[0]} ends with status {process.returncode}"
            raise BuildError(f"the native kernels do not compile here: {first}")
