"""The files that the explorer's page reads, and the command that makes and serves them."""

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dynaconv import convert
from dynaconv.cli import main
from dynaconv.conversion import conversion_of
from dynaconv.errors import RunError
from dynaconv.explain.movement import kernel_movement
from dynaconv.explore import networks, server
from dynaconv.explore.networks import write_networks
from dynaconv.train.checkpoint import load_trained, save_trained
from dynaconv.train.checkpoint_evaluation import checkpoint_data, random_images
from dynaconv.train.factory import create_network
from tests.messages import refuses
from tests.train.helpers import DIGITS

IMAGES = 40


def save(file: Path, family: str | None) -> Path:
    """A network of digits, dynamic or static."""
    torch.manual_seed(0)
    model: nn.Module = create_network("test_resnet", num_classes=10, in_channels=1)
    metadata: dict[str, Any] = {"model": "test_resnet", **DIGITS}
    if family is not None:
        model = convert(model, family, include="*conv2")
        metadata["conversion"] = conversion_of(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter) * parameter.std().nan_to_num(1)
    save_trained(file, model, metadata)
    return file


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint of a dynamic network, and the folder of its files beside those of a static one."""
    made = tmp_path_factory.mktemp("explore")
    checkpoint, folder = save(made / "dynamic.safetensors", "dcd"), made / "networks"
    folder.mkdir()
    write_networks([checkpoint, save(made / "static.safetensors", None)], folder, images=IMAGES)
    return checkpoint, folder


@pytest.mark.export
def test_the_files_hold_kernels_coefficients_and_the_frozen_network(written: tuple[Path, Path]) -> None:
    import onnxruntime

    checkpoint, folder = written
    model, metadata = load_trained(checkpoint)
    dynamic, static = json.loads((folder / "index.json").read_text())["networks"]
    assert (static["layers"], static["family"], "frozen" in static) == ([], None, False)
    assert dynamic["size"] == [1, 16, 16]
    module = checkpoint_data(metadata, None, None, IMAGES, 0)
    ((images, classes),) = module.eval_loader(random_images(module, "test", IMAGES, seed=0))
    with torch.inference_mode():
        hits = model(images).argmax(1) == classes
    assert dynamic["accuracy"] == pytest.approx(float(hits.double().mean()))
    movement = kernel_movement(model, [images])
    assert {layer["name"]: layer["movement"] for layer in dynamic["layers"]} == pytest.approx(movement)
    kernels = np.frombuffer((folder / dynamic["frozen"]["kernels"]).read_bytes(), dtype="<f2")
    layer = model.get_submodule(dynamic["layers"][0]["name"])
    count = layer.weight.numel()
    np.testing.assert_allclose(kernels[:count], layer.weight.detach().flatten(), rtol=1e-3, atol=1e-4)
    session = onnxruntime.InferenceSession(str(folder / dynamic["file"]))
    assert f"{dynamic['layers'][0]['name']}.scale" in [each.name for each in session.get_outputs()]
    assert dynamic["layers"][0]["coefficients"]["scale"]["symbol"] == "Λ"
    frozen = onnxruntime.InferenceSession(str(folder / dynamic["frozen"]["file"]))
    found = np.concatenate([frozen.run(None, {"images": image[None].numpy()})[0] for image in images]).argmax(1)
    assert float((torch.as_tensor(found) != classes).double().mean()) == pytest.approx(
        1 - dynamic["frozen"]["accuracy"]
    )


@pytest.mark.export
def test_a_sample_is_the_image_that_the_network_read(written: tuple[Path, Path]) -> None:
    checkpoint, folder = written
    _, metadata = load_trained(checkpoint)
    module = checkpoint_data(metadata, None, None, IMAGES, 0)
    ((images, classes),) = module.eval_loader(random_images(module, "test", IMAGES, seed=0))
    samples = json.loads((folder / "index.json").read_text())["networks"][0]["samples"]
    assert len({sample["label"] for sample in samples}) == len(samples) > 4
    for sample in samples:
        pixels = torch.as_tensor(np.array(Image.open(folder / sample["file"]))).float() / 255
        shown = images[classes == int(sample["label"])][0, 0]
        torch.testing.assert_close((pixels - 0.5) / 0.3, shown, rtol=0, atol=0.5 / 255 / 0.3 + 1e-6)


def test_a_static_network_is_refused(tmp_path: Path) -> None:
    with refuses(RunError, "test_resnet", "dynamic layer"):
        write_networks([save(tmp_path / "static.safetensors", None)], tmp_path)
    assert not (tmp_path / "index.json").exists()


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page that is built."""
    folder = tmp_path / "page"
    (folder / "networks").mkdir(parents=True)
    (folder / "index.html").write_text("page")
    (folder / "networks" / "index.json").write_text("shipped")
    (folder / "assets").mkdir()
    (folder / "assets" / "code.wasm").write_bytes(b"\0asm")
    monkeypatch.setattr(server, "PAGE", folder)
    return folder


@pytest.fixture
def address(page: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a server with a network of the user's own."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "index.json").write_text("own")
    (tmp_path / "secret.txt").write_text("secret")
    with server.open_server(0, tmp_path / "own") as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def test_the_server_gives_the_page_and_the_networks_and_nothing_else(address: str) -> None:
    def get(path: str) -> tuple[str, str, str]:
        with urllib.request.urlopen(address + path) as answer:
            return answer.headers.get_content_type(), answer.read().decode(), answer.headers["Cache-Control"]

    assert get("/") == ("text/html", "page", "no-cache")
    assert get("/networks/index.json") == ("application/json", "own", "no-cache")
    assert get("/assets/code.wasm") == ("application/wasm", "\0asm", "max-age=31536000, immutable")
    for path in ("/networks/", "/networks/../../secret.txt", "/../secret.txt", "/nothing"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(path)


def test_the_shipped_networks_are_those_of_the_page(page: Path) -> None:
    with server.open_server(0) as running:
        assert running.server_address[0] == "127.0.0.1"
    (page / "networks" / "index.json").unlink()
    (page / "networks").rmdir()
    with refuses(RunError, "make page"):
        server.open_server(0)


def test_a_page_that_is_not_built_and_a_taken_port_are_one_sentence(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["explore", "--no-browser", "--port", str(taken.getsockname()[1])]) == 2
    error = capsys.readouterr().err
    assert "another program uses it" in error
    assert error.count("\n") == 1
    (page / "index.html").unlink()
    assert main(["explore", "--no-browser"]) == 2
    assert "make page" in capsys.readouterr().err


def test_the_command_prints_the_address_and_ctrl_c_ends_it(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []

    def interrupt(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("http.server.ThreadingHTTPServer.serve_forever", interrupt)
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(networks, "export_onnx", lambda *_, **__: None)
    checkpoint = save(tmp_path / "net.safetensors", "dyconv")
    assert main(["explore", str(checkpoint), "--port", "0", "--images", "20"]) == 130
    out, error = capsys.readouterr()
    assert opened == [out.splitlines()[-1].split()[4].rstrip(";")]
    assert opened[0].startswith("http://localhost:")
    assert error == "dynaconv: interrupted.\n"
