"""The C++ example: a network in ONNX Runtime without Python gives the answers of `dynaconv predict`."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from dynaconv.cli import main
from dynaconv.export import ImageInfo, export_onnx
from dynaconv.native import extension
from dynaconv.native.toolchain import compiler
from dynaconv.train.checkpoint import load_trained
from dynaconv.train.predict import predict

pytestmark = pytest.mark.export
ROOT = Path(__file__).parents[2]
LETTERS = ROOT / "docs" / "results" / "weights" / "dcd.safetensors"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled as docs/native.md says, against the library of the Python package."""
    import onnxruntime

    folder = tmp_path_factory.mktemp("cpp")
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    (folder / "libonnxruntime.so.1").symlink_to(library)
    source = ROOT / "examples" / "cpp"
    command = [*compiler(), "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", f"-isystem{source / 'stand_in'}"]
    command += [str(source / "classify.cpp"), f"-L{folder}", "-l:libonnxruntime.so.1", f"-Wl,-rpath,{folder}"]
    subprocess.run([*command, "-o", str(folder / "classify")], check=True)
    return folder / "classify"


def answers(program: Path, *words: str | Path) -> list[tuple[str, float]]:
    done = subprocess.run([program, *words], capture_output=True, text=True, check=True)
    matches = [re.fullmatch(r" *([\d.]+) %  (.+)", line) for line in done.stdout.splitlines()]
    return [(match[2], float(match[1]) / 100) for match in matches if match]


def letter(file: Path, size: tuple[int, int]) -> Path:
    """A bright T on black, of a size that the network does not have."""
    array = np.zeros(size, np.uint8)
    height, width = size
    array[height // 6 : height // 4, width // 6 : -width // 6] = 255
    array[height // 6 : -height // 6, width * 9 // 20 : width * 11 // 20] = 255
    Image.fromarray(array).save(file)
    return file


@pytest.mark.parametrize("flags", [[], ["--native", "--preprocessing"]], ids=str)
def test_the_example_gives_the_answers_of_python(flags: list[str], program: Path, tmp_path: Path) -> None:
    network = tmp_path / "letters.onnx"
    assert main(["export", str(LETTERS), "--format", "onnx", "-o", str(network), "--fixed-size", *flags]) == 0
    library = [extension("onnxruntime")] if "--native" in flags else []
    model, metadata = load_trained(LETTERS)
    for size in ((metadata["image_size"],) * 2, (150, 90), (17, 20)):
        picture = letter(tmp_path / "t.pgm", size)
        (want,) = predict(model, metadata, [picture], top=3)
        found = answers(program, network, picture, *library)
        assert [name for name, _ in found] == [name for name, _ in want.classes]
        assert [share for _, share in found] == pytest.approx([share for _, share in want.classes], abs=0.002)
        assert found[0][0] == "T"
        colored = tmp_path / "t.ppm"
        Image.open(picture).convert("RGB").save(colored)
        assert answers(program, network, colored, *library) == found


def test_a_network_for_colours_sees_the_middle_of_a_picture(program: Path, tmp_path: Path) -> None:
    network, size = tmp_path / "net.onnx", 64
    model = timm.create_model("dcd_resnet10", num_classes=5).eval()
    info = ImageInfo.of({**model.pretrained_cfg, "image_size": size})
    export_onnx(model, network, torch.randn(1, 3, size, size), batch=1, free_size=False, info=info)
    # 73 is the side before the crop to 64, so that nothing is resized.
    pixels = torch.randint(256, (73, 80, 3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "noise.ppm")
    mean, std = torch.tensor(info.mean)[:, None, None], torch.tensor(info.std)[:, None, None]
    middle = (pixels.movedim(-1, 0)[:, 4:68, 8:72] / 255 - mean) / std
    with torch.no_grad():
        want = model(middle[None]).softmax(1)[0].topk(3)
    found = answers(program, network, tmp_path / "noise.ppm")
    assert [name for name, _ in found] == [f"class {index}" for index in want.indices.tolist()]
    assert [share for _, share in found] == pytest.approx(want.values.tolist(), abs=1e-3)


def test_what_cannot_be_read_is_one_sentence(program: Path, tmp_path: Path) -> None:
    def refused(*words: str | Path) -> str:
        done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
        assert done.returncode in (1, 2)
        assert not done.stdout
        return done.stderr

    assert "usage" in refused()
    network = tmp_path / "net.onnx"
    assert main(["export", str(LETTERS), "--format", "onnx", "-o", str(network), "--fixed-size"]) == 0
    (tmp_path / "bad.ppm").write_text("P3 1 1 255 0 0 0")
    assert "no binary PPM" in refused(network, tmp_path / "bad.ppm")
    (tmp_path / "short.pgm").write_bytes(b"P5 # a comment\n4 4 255\n123")
    assert "ends too early" in refused(network, tmp_path / "short.pgm")
    assert "nowhere" in refused(tmp_path / "nowhere.onnx", tmp_path / "short.pgm")
