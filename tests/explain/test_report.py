from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import torch
from matplotlib.figure import Figure
from PIL import Image

from dynaconv.explain.report import anchor, embedded_figure, embedded_image, environment, render

_VOID = {"meta", "link", "img", "br", "hr", "input"}
_BASE = "explain/report.html"
_FACTS = {"Command": "dynaconv <script>", "dynaconv": "1.0", "<script>": "<script>"}


class _Balance(HTMLParser):
    """Fails on a tag that is closed out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def assert_balanced(written: str) -> None:
    parser = _Balance()
    parser.feed(written)
    assert parser.open == []


def test_a_page_is_balanced_links_its_sections_and_escapes_its_values() -> None:
    written = render(_BASE, title="A & <script>", facts=_FACTS)
    assert_balanced(written)
    assert "<title>A &amp; &lt;script&gt;</title>" in written
    assert "<dd><code>dynaconv &lt;script&gt;</code></dd>" in written
    assert "<script>" not in written
    assert 'href="#what-was-run"' in written
    assert 'id="what-was-run"' in written
    assert anchor("What it's about") == "what-it-s-about"


def test_tables_and_figures_escape_their_values() -> None:
    parts = environment().get_template("explain/parts.html").make_module({"contents": []})
    for made in (parts.table(["<b>"], [["<b>", "<b>"]], "<b>", ["<b>"]), parts.figure("data:", 'an "alt"', "<b>")):
        assert "<b>" not in made
        assert "&lt;b&gt;" in made
        assert_balanced(made)


def test_a_long_table_is_folded() -> None:
    parts = environment().get_template("explain/parts.html").make_module({"contents": []})
    for rows, folded in ((12, False), (13, True)):
        made = parts.table(["a", "b"], [["1", "2"]] * rows)
        assert ("<summary>Table of 13 rows</summary>" in made) == folded
        assert_balanced(made)


def test_a_picture_keeps_its_pixels() -> None:
    for channels, mode in ((1, "L"), (3, "RGB")):
        image = torch.arange(channels * 6, dtype=torch.uint8).view(channels, 2, 3)
        opened = _opened(embedded_image(image))
        assert (opened.mode, opened.size) == (mode, (3, 2))
        last = opened.getpixel((2, 1))
        assert last == int(image[0, 1, 2]) if channels == 1 else last == tuple(image[:, 1, 2].tolist())


def test_a_figure_is_embedded() -> None:
    assert _opened(embedded_figure(Figure(figsize=(2, 1)))).size == (288, 144)


def _opened(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,"))))
