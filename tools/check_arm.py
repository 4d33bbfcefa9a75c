"""Compile the native kernels for 64-bit ARM and compare them with torch in float64, under emulation.

    apt-get install g++-aarch64-linux-gnu qemu-user
    python tools/check_arm.py

The portable kernels are vectors of four floats, which become NEON code there. Random layers of every kind and two small
networks are written to files with the output that torch computes in float64; a program without torch
(tools/arm_driver.cpp) runs them. `--compiler g++ --emulator ""` does the same on this processor.
"""

import argparse
import copy
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.native.test_layers import random_geometry, randomise_heads  # noqa: E402

from dynaconv import DCDConv2d, deploy  # noqa: E402  the tests are found from here on
from dynaconv.native import NativeProgram  # noqa: E402
from dynaconv.native.steps import FIELDS  # noqa: E402
from dynaconv.native.toolchain import FLAGS, SOURCES  # noqa: E402

TOLERANCE = 1e-5


def layers(count: int) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Dense, depthwise and DCD layers of random geometry, depthwise DCD among them, and two networks."""
    for seed in range(count):
        draw = random.Random(seed)
        arguments, (batch, height, width) = random_geometry(draw)
        c_in, c_out = draw.choice([3, 16, 24, 33]), draw.choice([8, 20, 48])
        dense = nn.Sequential(nn.Conv2d(c_in, c_out, **arguments), nn.ReLU())
        yield f"dense{seed}", dense, torch.randn(batch, c_in, height, width)
        depthwise = nn.Sequential(nn.Conv2d(c_in, c_in, groups=c_in, **arguments), nn.ReLU6())
        yield f"depthwise{seed}", depthwise, torch.randn(batch, c_in, height, width)
        dynamic = nn.Sequential(nn.Conv2d(3, c_in, 1), DCDConv2d(c_in, c_in, groups=c_in, **arguments), nn.ReLU6())
        yield f"depthwise-dcd{seed}", dynamic, torch.randn(batch, 3, height, width)
        if seed % 2:
            arguments = {"kernel_size": 1}
        arguments["algorithm"] = draw.choice(["auto", "kernel", "factored"])
        dcd = DCDConv2d(c_in, c_out, **arguments, hidden_channels=draw.choice([3, 20]))
        yield f"dcd{seed}", dcd, torch.randn(batch, c_in, height, width)
    for name in ("dcd_mobilenetv2_035", "dcd_resnet10"):
        yield name, timm.create_model(name, num_classes=10), torch.randn(2, 3, 64, 64)


def write(path: Path, network: nn.Module, x: Tensor) -> None:
    """A file with a native program, its input, and the output of torch in float64."""
    network = randomise_heads(network).eval()
    native = deploy(network, backend="native")
    assert isinstance(native, NativeProgram)
    assert native.constants is not None
    assert native.steps is not None
    with torch.no_grad():
        want = copy.deepcopy(network).double()(x.double()).float()
    if want.dim() == 4:
        want = want.permute(0, 2, 3, 1)
    head = struct.pack("<7q", native.steps.numel() // len(FIELDS), native.constants.numel(), *x.shape, want.numel())
    values = [native.steps.numpy(), native.constants.numpy(), x.contiguous().numpy(), want.contiguous().numpy()]
    path.write_bytes(head + b"".join(value.tobytes() for value in values))


def compile_driver(compiler: str, folder: Path) -> Path:
    """The program that runs such files."""
    sources = [str(file) for file in sorted(SOURCES.glob("*.cpp")) if not file.stem.startswith("binding")]
    program = folder / "driver"
    command = [compiler, *FLAGS, f"-I{SOURCES}", *sources, str(ROOT / "tools" / "arm_driver.cpp"), "-pthread"]
    subprocess.run([*command, "-o", str(program)], check=True)
    return program


def main() -> int:
    """Write, compile, run, and say how far the outputs are from those of torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiler", default="aarch64-linux-gnu-g++")
    parser.add_argument("--emulator", default="qemu-aarch64 -L /usr/aarch64-linux-gnu", help="empty for none")
    parser.add_argument("--count", type=int, default=20, help="layers of each kind")
    args = parser.parse_args()
    emulator = args.emulator.split()
    for program in (args.compiler, *emulator[:1]):
        if shutil.which(program) is None:
            parser.error(f"there is no {program}; see --help for what to install.")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = []
        for name, network, x in layers(args.count):
            files.append(folder / name)
            write(files[-1], network, x)
        driver = compile_driver(args.compiler, folder)
        said = subprocess.run([*emulator, str(driver), *map(str, files)], stdout=subprocess.PIPE, text=True, check=True)
    kernels, *lines = said.stdout.splitlines()
    found = {Path(path).name: float(value) for value, path in (line.split() for line in lines)}
    for name, value in sorted(found.items(), key=lambda item: -item[1])[:5]:
        print(f"{value:.1e}  {name}")
    wrong = [name for name, value in found.items() if not value <= TOLERANCE]
    print(f"{kernels}: {len(found) - len(wrong)} of {len(found)} within {TOLERANCE} of torch in float64")
    return int(bool(wrong) or len(found) != len(files))


if __name__ == "__main__":
    sys.exit(main())
