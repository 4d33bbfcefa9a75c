from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.messages import refuses

from dynaconv.explain.report import (
    Html,
    Section,
    code_block,
    data_uri,
    facts,
    figure,
    page,
    paragraph,
    picture_png,
    table,
    text,
)

_VOID = {"meta", "link", "img", "br", "hr", "input"}


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


def test_a_page_is_balanced_and_links_its_sections() -> None:
    sections = [
        Section(title="What it's about", body=paragraph("x")),
        Section(title="Next", body=table(["a"], [["b"]])),
    ]
    written = page("A & B", lead=paragraph("lead", kind="lead"), sections=sections, footer=Html("end"))
    parser = _Balance()
    parser.feed(written)
    assert parser.open == []
    assert "<title>A &amp; B</title>" in written
    for section in sections:
        assert f'href="#{section.anchor}"' in written
        assert f'id="{section.anchor}"' in written
    assert sections[0].anchor == "what-it-s-about"


@pytest.mark.parametrize(
    "made",
    [
        text("<script>"),
        paragraph("<script>", kind="<script>"),
        code_block("<script>"),
        facts({"<script>": "<script>"}, as_code=("<script>",)),
        table(["<script>"], [["<script>", "<script>"]], footer=["<script>"], caption="<script>"),
    ],
)
def test_text_is_escaped_everywhere(made: Html) -> None:
    assert "<script>" not in made
    assert "&lt;script&gt;" in made


def test_a_figure_is_embedded_whole(tmp_path: Path) -> None:
    png = tmp_path / "a.png"
    png.write_bytes(picture_png(torch.zeros(1, 2, 3, dtype=torch.uint8)))
    made = figure(png, alt='the "alt"', caption="a < b")
    assert data_uri(png.read_bytes()) in made
    assert 'alt="the &quot;alt&quot;"' in made
    assert "a &lt; b" in made


def test_a_picture_keeps_its_pixels() -> None:
    for channels, mode in ((1, "L"), (3, "RGB")):
        image = torch.arange(channels * 6, dtype=torch.uint8).view(channels, 2, 3)
        address = data_uri(picture_png(image))
        opened = Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,"))))
        assert (opened.mode, opened.size) == (mode, (3, 2))
        last = opened.getpixel((2, 1))
        assert last == int(image[0, 1, 2]) if channels == 1 else last == tuple(image[:, 1, 2].tolist())
    with refuses(ValueError):
        picture_png(torch.zeros(2, 4, 4, dtype=torch.uint8))
