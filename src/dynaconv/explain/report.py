"""Self-contained HTML reports: one file that loads nothing from other files or servers.

Only the functions of this module convert text to markup, and they escape it. Markup has the type `Html`, so that a type
checker finds text that was not escaped.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import NewType

from torch import Tensor

Html = NewType("Html", str)
"""Markup that can be inserted into a page without escaping."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section of a page; the title is plain text."""

    title: str
    body: Html

    @property
    def anchor(self) -> str:
        """The section's id in the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def page(title: str, *, lead: Html, sections: Sequence[Section], footer: Html) -> str:
    """Return a complete page.

    Args:
        title: Plain text, used as heading and as title of the window.
        lead: Summary at the top of the page.
        sections: Sections in order; links to them follow the lead.
        footer: Text at the end of the page, in small type.
    """
    template = Template(files("dynaconv.explain").joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=text(title),
        lead=lead,
        contents="".join(f'<a href="#{part.anchor}">{text(part.title)}</a>' for part in sections),
        sections="\n".join(
            f'<section id="{part.anchor}">\n<h2>{text(part.title)}</h2>\n{part.body}\n</section>' for part in sections
        ),
        footer=footer,
    )


def text(plain: str) -> Html:
    """Return plain text, escaped."""
    return Html(html.escape(plain, quote=True))


def join(parts: Iterable[Html]) -> Html:
    """Return the parts joined, one per line."""
    return Html("\n".join(parts))


def paragraph(plain: str, *, kind: str = "") -> Html:
    """Return a paragraph of plain text; `kind` is a class of the style sheet, such as `lead` or `note`."""
    return Html(f'<p class="{text(kind)}">{text(plain)}</p>' if kind else f"<p>{text(plain)}</p>")


def code_block(lines: str) -> Html:
    """Return a block of commands or code that preserves spaces and line breaks."""
    return Html(f"<pre><code>{text(lines)}</code></pre>")


def facts(pairs: Mapping[str, str], *, as_code: Sequence[str] = ()) -> Html:
    """Return a list of terms and their values; the values of the terms in `as_code` are formatted as code."""
    rows = (
        f"<dt>{text(term)}</dt><dd>{f'<code>{text(value)}</code>' if term in as_code else text(value)}</dd>"
        for term, value in pairs.items()
    )
    return Html(f"<dl>{''.join(rows)}</dl>")


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, footer: Sequence[str] = (), caption: str = ""
) -> Html:
    """Return a table. The first cell of a row is its header; the footer is a separate row, such as a ratio."""
    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in header)
    body = "".join(_row(row) for row in rows)
    foot = f"<tfoot>{_row(footer)}</tfoot>" if footer else ""
    note = paragraph(caption, kind="note") if caption else ""
    return Html(
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>{foot}</table></div>{note}'
    )


def figure(png: Path, *, alt: str, caption: str = "") -> Html:
    """Return a figure with an embedded PNG file, which scrolls on narrow screens instead of becoming too small."""
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    image = f'<img src="{data_uri(png.read_bytes())}" alt="{text(alt)}">'
    return Html(f'<figure><div class="wide">{image}</div>{below}</figure>')


def data_uri(png: bytes) -> str:
    """Return a PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def picture_png(image: Tensor) -> bytes:
    """Encode a `uint8` image, (1 or 3, H, W), as PNG."""
    from PIL import Image

    if image.dim() != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"an image must be (1, H, W) or (3, H, W); got {tuple(image.shape)}.")
    pixels = image[0] if image.shape[0] == 1 else image.permute(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels.contiguous().numpy()).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _row(cells: Sequence[str]) -> str:
    first, *rest = cells
    return f'<tr><th scope="row">{text(first)}</th>{"".join(f"<td>{text(cell)}</td>" for cell in rest)}</tr>'
