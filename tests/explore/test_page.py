"""The explorer's page in Chromium: `make explorer` builds it, exports its networks and runs these tests."""

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynaconv.explore.server import PAGE, open_server
from dynaconv.train.checkpoint import load_trained
from dynaconv.train.data.image_file import open_image

pytestmark = pytest.mark.browser
WEIGHTS = Path(__file__).parents[2] / "docs" / "results" / "weights"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
Stroke = list[tuple[float, float]]
LETTERS: dict[str, list[Stroke]] = {
    "T": [[(0.15, 0.2), (0.85, 0.18)], [(0.5, 0.2), (0.48, 0.85)]],
    "E": [[(0.7, 0.15), (0.3, 0.17), (0.28, 0.85), (0.72, 0.84)], [(0.3, 0.5), (0.62, 0.49)]],
    "H": [[(0.25, 0.15), (0.24, 0.85)], [(0.75, 0.15), (0.74, 0.86)], [(0.25, 0.5), (0.75, 0.48)]],
    "A": [[(0.2, 0.85), (0.5, 0.15), (0.8, 0.85)], [(0.32, 0.58), (0.68, 0.58)]],
    "L": [[(0.35, 0.15), (0.34, 0.85), (0.75, 0.84)]],
    "K": [[(0.3, 0.15), (0.3, 0.85)], [(0.72, 0.15), (0.32, 0.52), (0.74, 0.86)]],
    "4": [[(0.62, 0.85), (0.6, 0.15), (0.2, 0.62), (0.8, 0.6)]],
    "7": [[(0.22, 0.17), (0.76, 0.16), (0.42, 0.86)]],
    "Σ": [[(0.75, 0.16), (0.27, 0.16), (0.55, 0.5), (0.26, 0.85), (0.77, 0.84)]],
    "Л": [[(0.15, 0.82), (0.3, 0.7), (0.38, 0.17), (0.75, 0.16), (0.76, 0.86)]],
}
"""Letters as a hand draws them, in fractions of the pad."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    if not (PAGE / "index.html").is_file():
        pytest.skip("the page is not built; run `make page`")
    with open_server(0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The loaded page; a message in the console, an error or a request to another host fails the test."""
    width, height = getattr(request, "param", (1280, 900))
    page = browser.new_page(viewport={"width": width, "height": height})
    said: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: request.url.startswith((address, "data:", "blob:")) or said.append(request.url))
    page.goto(address)
    settle(page)
    yield page
    page.close()
    assert said == []


def settle(page: Any) -> None:
    page.wait_for_function("window.explorer.settled && window.explorer.firstAnswer !== null")


def networks() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((PAGE / "networks" / "index.json").read_text())["networks"]
    return found


def use(page: Any, index: int) -> None:
    radio = page.locator("[name=network]").nth(index)
    if not radio.is_checked():
        page.evaluate("window.explorer.settled = false")
        radio.evaluate("radio => radio.click()")
        settle(page)


def draw(page: Any, strokes: list[Stroke], slot: str = "A") -> None:
    board = page.locator(f".slot.{slot.lower()} .board")
    board.scroll_into_view_if_needed()
    box = board.bounding_box()
    page.locator(f".slot.{slot.lower()} .clear").click()
    for number, stroke in enumerate(strokes):
        for step, (x, y) in enumerate(stroke):
            tremble = 0.012 * math.sin(7 * step + 3 * number)
            page.mouse.move(box["x"] + (x + tremble) * box["width"], box["y"] + (y - tremble) * box["height"], steps=6)
            page.mouse.down()
        page.mouse.up()
    settle(page)


def answer(page: Any, slot: str = "A") -> str:
    text: str = page.locator(f".slot.{slot.lower()} .answers li .class").first.inner_text()
    return text


def values(page: Any, expression: str) -> np.ndarray:
    """Numbers of the state of the page."""
    return np.array(page.evaluate(f"Array.from(explorer.{expression})"), dtype=np.float32)


def note(inputs: dict[str, torch.Tensor], name: str, layer: torch.nn.Module, args: tuple[torch.Tensor]) -> None:
    inputs[name] = args[0]


def test_the_page_computes_what_python_computes(page: Any) -> None:
    import onnxruntime

    for index, info in enumerate(networks()):
        use(page, index)
        draw(page, LETTERS["A"])
        image = values(page, "slots.A.input").reshape(1, *info["size"])
        session = onnxruntime.InferenceSession(str(PAGE / "networks" / info["file"]))
        names = [each.name for each in session.get_outputs()]
        outputs = dict(zip(names, session.run(None, {"images": image}), strict=True))
        np.testing.assert_allclose(values(page, "slots.A.result.logits"), outputs["output"][0], atol=1e-4, rtol=1e-4)
        family = info["title"].removesuffix("_resnet10")
        model, _ = load_trained(WEIGHTS / f"{family}.safetensors")
        inputs: dict[str, torch.Tensor] = {}
        for name in (layer["name"] for layer in info["layers"]):
            model.get_submodule(name).register_forward_pre_hook(partial(note, inputs, name))
        with torch.inference_mode():
            logits = model.float()(torch.as_tensor(image))
            np.testing.assert_allclose(values(page, "slots.A.result.logits"), logits[0], atol=1e-4, rtol=1e-4)
            for number, name in enumerate(inputs):
                layer = model.get_submodule(name)
                shown = f"slots.A.result.layers[{number}]"
                np.testing.assert_allclose(
                    values(page, f"{shown}.kernel"), layer.kernel(inputs[name]).flatten(), atol=1e-4, rtol=1e-4
                )
                parts = [part for part in layer.coefficients(inputs[name])._asdict().items() if part[1] is not None]
                assert page.evaluate(f"explorer.{shown}.coefficients.length") == len(parts)
                for k, (part, want) in enumerate(parts):
                    assert page.evaluate(f"explorer.{shown}.coefficients[{k}].name") == part
                    got = values(page, f"{shown}.coefficients[{k}].values.data")
                    np.testing.assert_allclose(got, want.flatten(), atol=1e-4, rtol=1e-4)


def test_the_answer_with_frozen_kernels_is_that_of_the_frozen_network(page: Any) -> None:
    import onnxruntime

    (index, info) = next((i, each) for i, each in enumerate(networks()) if each["layers"])
    use(page, index)
    image = values(page, "slots.A.input").reshape(1, *info["size"])
    session = onnxruntime.InferenceSession(str(PAGE / "networks" / info["frozen"]["file"]))
    logits = torch.as_tensor(session.run(None, {"images": image})[0][0])
    np.testing.assert_allclose(values(page, "slots.A.result.frozen"), logits.softmax(0), atol=1e-4)
    assert info["classes"][int(logits.argmax())] in page.locator(".slot.a .frozen").inner_text()


def test_letters_drawn_by_hand_are_recognised(page: Any) -> None:
    for index, info in enumerate(networks()):
        use(page, index)
        found = {}
        for letter, strokes in LETTERS.items():
            draw(page, strokes)
            found[letter] = answer(page)
        right = sum(letter == read for letter, read in found.items())
        print(f"{info['title']}: {right} of {len(LETTERS)} letters, {found}")
        assert right >= len(LETTERS) - 3, found


def test_two_pictures_differ_and_a_cleared_one_has_no_answer(page: Any) -> None:
    draw(page, LETTERS["T"], "A")
    draw(page, LETTERS["Σ"], "B")
    assert "differ by" in page.locator("#detail-finding").inner_text()
    page.locator(".slot.b .clear").click()
    settle(page)
    assert page.locator(".slot.b .answers li").count() == 0
    assert "picture B" not in page.locator("#detail-finding").inner_text()


def test_a_file_is_read_as_a_picture(page: Any, tmp_path: Path) -> None:
    from PIL import Image

    sample = networks()[0]["samples"][3]
    source = Image.open(PAGE / "networks" / sample["file"])
    source.resize((256, 256), Image.Resampling.NEAREST).convert("RGB").save(tmp_path / "letter.png")
    page.evaluate("window.explorer.settled = false")
    page.locator(".slot.a input[type=file]").set_input_files(tmp_path / "letter.png")
    settle(page)
    want = (np.array(source).flatten() / 255 - 0.5) / 0.33
    assert np.abs(values(page, "slots.A.input") - want).max() < 0.1
    (tmp_path / "text.png").write_text("no picture")
    page.locator(".slot.a input[type=file]").set_input_files(tmp_path / "text.png")
    page.wait_for_function("document.querySelector('.slot.a .frozen').textContent.includes('no picture')")


def test_transparent_pixels_are_white_as_in_python(page: Any, tmp_path: Path) -> None:
    from PIL import Image

    picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (16, 16, 48, 48))
    picture.save(tmp_path / "letter.png")
    page.evaluate("window.explorer.settled = false")
    page.locator(".slot.a input[type=file]").set_input_files(tmp_path / "letter.png")
    settle(page)
    read = np.array(open_image(tmp_path / "letter.png", "L").resize((32, 32), Image.Resampling.BOX)).flatten()
    want = (read / 255 - 0.5) / 0.33
    assert sorted(set(read)) == [0, 255]
    assert np.abs(values(page, "slots.A.input") - want).max() < 0.1


def test_everything_can_be_reached_and_done_by_keyboard(page: Any) -> None:
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "(e => e.name || e.className || e.getAttribute('aria-label') || e.querySelector('img')?.alt)"
                "(document.activeElement) || ''"
            )
        )
    order = [reached.index(each) for each in ("skip", "network", "clear", "Load picture A", "layer")]
    assert order == sorted(order)
    assert any(each.startswith("sample ") for each in reached)
    page.keyboard.press("b")
    assert page.locator(".slot.b.active").count() == 1
    before = values(page, "slots.B.input")
    page.keyboard.press("s")
    page.wait_for_timeout(100)
    settle(page)
    assert (values(page, "slots.B.input") != before).any()
    page.keyboard.press("c")
    settle(page)
    assert page.evaluate("explorer.slots.B.result") is None
    layer = page.evaluate("explorer.layer")
    page.keyboard.press("j" if layer == 0 else "k")
    assert page.evaluate("explorer.layer") == (1 if layer == 0 else layer - 1)
    page.locator("[name=layer]").nth(1).focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("explorer.layer") == 2
    page.keyboard.press("1")
    page.wait_for_function(f"explorer.network.info.title === {networks()[0]['title']!r}")
    settle(page)


@pytest.mark.parametrize("page", [(400, 800), (820, 1100)], indirect=True, ids=["phone", "tablet"])
def test_nothing_is_cut_on_a_narrow_screen(page: Any) -> None:
    for index in range(len(networks())):
        use(page, index)
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
        cut = page.evaluate(
            "[...document.querySelectorAll('button, .button, label, h2, p, canvas')].filter(e => e.offsetParent &&"
            " e.getBoundingClientRect().right > innerWidth).map(e => e.outerHTML)"
        )
        assert cut == []
    draw(page, LETTERS["E"])
    assert page.locator(".slot.a .answers li").count() == 3


def test_the_site_has_the_explorer(browser: Any, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=WEIGHTS.parents[2], env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=True)
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        page = browser.new_page()
        said: list[str] = []
        page.goto(f"http://localhost:{site.server_address[1]}/explorer.html")
        page.on("console", lambda message: said.append(message.text))
        page.get_by_role("link", name="Open the explorer").click()
        settle(page)
        assert page.url.endswith("/explorer/app/index.html")
        draw(page, LETTERS["T"])
        assert answer(page) == "T"
        page.close()
        site.shutdown()
    assert said == []


def test_times_are_printed(browser: Any, address: str) -> None:
    page = browser.new_page()
    page.goto(address)
    settle(page)
    for index, info in enumerate(networks()):
        use(page, index)
        times = []
        for letter in "TEHAL":
            draw(page, LETTERS[letter])
            times.append(page.evaluate("explorer.slots.A.result.milliseconds"))
        print(f"{info['title']}: a picture takes {sorted(times)[2]:.0f} ms (median of five)")
    print(f"first answer {page.evaluate('explorer.firstAnswer') / 1000:.2f} s after the start of loading")
    page.close()
