"""Sources of the library: the package, the cache, or none."""

import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dynaconv.native import BuildError, extension
from dynaconv.native.build import main
from dynaconv.native.toolchain import SOURCES, _cached, _run, build, compiler, prebuilt_library, prebuilt_name
from tests.messages import refuses

try:
    LIBRARY = build()
except BuildError as error:
    pytest.skip(str(error), allow_module_level=True)

CODE = """
import torch
from torch import nn
from dynaconv import deploy
conv = nn.Conv2d(3, 8, 3).eval()
x = torch.randn(1, 3, 8, 8)
for _ in range(2):
    fast = deploy(conv, backend="native")
    torch.testing.assert_close(fast(x), conv(x))
print(type(fast).__name__)
"""


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | environment
    return subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("state", ["right", "not a library", "of other sources", "of another format"])
def test_the_library_of_the_package_runs_where_it_fits(tmp_path: Path, state: str) -> None:
    """There is no compiler, so that the library in the package is the only one."""
    package = tmp_path / "dynaconv"
    shutil.copytree(SOURCES.parents[1], package, ignore=shutil.ignore_patterns("__pycache__"))
    content = bytearray(LIBRARY.read_bytes())
    name = prebuilt_name("torch")
    if state == "not a library":
        content = bytearray(b"no library")
    elif state == "of other sources":
        name = f"libdynaconv_native-{platform.machine()}-{'0' * 16}.so"
    elif state == "of another format":
        # e_machine, the header field of the processor architecture.
        content[18:20] = b"\xff\xff"
    (package / "native" / name).write_bytes(content)
    done = run(PYTHONPATH=str(tmp_path), DYNACONV_CACHE=str(tmp_path), PATH=str(tmp_path), CXX="")
    assert done.stdout.strip() == ("NativeProgram" if state == "right" else "Conv2d"), done.stderr
    assert done.stderr.count("needs a C++ compiler") == (state != "right")


def test_a_build_that_is_interrupted_leaves_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNACONV_CACHE", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr("dynaconv.files._flush", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            _cached("digest", "library.so", _write)
    assert not list((tmp_path / "digest").iterdir())
    assert _cached("digest", "library.so", _write).read_bytes() == b"library"
    assert [path.name for path in (tmp_path / "digest").iterdir()] == ["library.so"]


def test_an_interrupted_build_ends_its_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []

    class Interrupted(subprocess.Popen[str]):
        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **options)
            started.append(self)

        def communicate(self, *_: Any, **__: Any) -> Any:
            raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        _run([[sys.executable, "-c", "import time; time.sleep(600)"]] * 2, verbose=False)
    assert [process.returncode for process in started] == [-signal.SIGKILL] * 2


def _interrupt(path: Path) -> None:
    raise KeyboardInterrupt


def _write(scratch: Path) -> Path:
    file = scratch / "made"
    file.write_bytes(b"library")
    return file


def test_a_cache_that_takes_no_files_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DYNACONV_CACHE", str(tmp_path / "file"))
    with refuses(BuildError, "DYNACONV_CACHE"):
        build()


def test_own_compiler_flags_leave_the_library_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynaconv.native.toolchain.SOURCES", shutil.copytree(SOURCES, tmp_path / "csrc"))
    assert prebuilt_library("torch") is None
    prebuilt = Path(shutil.copy(LIBRARY, tmp_path / prebuilt_name("torch")))
    assert prebuilt_library("torch") == prebuilt
    monkeypatch.setenv("DYNACONV_CXXFLAGS", "-g")
    assert prebuilt_library("torch") is None


def test_a_relative_cache_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = extension("onnxruntime")
    cached = tmp_path / "cache" / built.parent.name / built.name
    cached.parent.mkdir(parents=True)
    shutil.copy(built, cached)
    monkeypatch.setenv("DYNACONV_CACHE", "cache")
    monkeypatch.chdir(tmp_path)
    assert extension("onnxruntime") == cached


def test_the_compiler_is_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/usr/bin/env g++")
    assert compiler() == ["/usr/bin/env", "g++"]
    monkeypatch.setenv("CXX", "g++-none -m64")
    with refuses(BuildError, "CXX"):
        compiler()


def test_the_extension_of_the_package_is_taken_where_it_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = extension("onnxruntime")
    monkeypatch.setattr("dynaconv.native.toolchain.SOURCES", shutil.copytree(SOURCES, tmp_path / "csrc"))
    prebuilt = Path(shutil.copy(built, tmp_path / prebuilt_name("onnxruntime")))
    content = bytearray(built.read_bytes())
    content[18:20] = b"\xff\xff"
    prebuilt.write_bytes(content)
    assert extension("onnxruntime") == built
    prebuilt.unlink()
    shutil.copy(built, prebuilt)
    assert extension("onnxruntime") == prebuilt


def test_the_command_builds_for_other_runtimes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--runtime", "onnxruntime"]) == 0
    assert Path(capsys.readouterr().out.strip()) == extension("onnxruntime")
