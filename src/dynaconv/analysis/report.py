"""Self-contained HTML reports: one file, nothing fetched from anywhere.

Text becomes markup only through the functions here, which escape it; `Html` marks what already is markup, so that a
type checker finds text that was forgotten.
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
"""Markup, safe to put into a page."""


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
    """A whole page.

    Args:
        title: Plain text, shown as heading and as the window's title.
        lead: What the reader should know when reading nothing else.
        sections: In order; linked from below the lead.
        footer: Small print.
    """
    template = Template(files("dynaconv.analysis").joinpath("report.html").read_text(encoding="utf-8"))
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
    """Plain text, escaped."""
    return Html(html.escape(plain, quote=True))


def join(parts: Iterable[Html]) -> Html:
    """Markup one after the other, a line each."""
    return Html("\n".join(parts))


def paragraph(plain: str, *, kind: str = "") -> Html:
    """A paragraph of plain text; `kind` is a class of the style sheet, such as `lead` or `note`."""
    return Html(f'<p class="{text(kind)}">{text(plain)}</p>' if kind else f"<p>{text(plain)}</p>")


def code_block(lines: str) -> Html:
    """Commands or code, spaces and line ends kept."""
    return Html(f"<pre><code>{text(lines)}</code></pre>")


def facts(pairs: Mapping[str, str], *, as_code: Sequence[str] = ()) -> Html:
    """Terms and what they are; the values of the terms in `as_code` are set as code."""
    rows = (
        f"<dt>{text(term)}</dt><dd>{f'<code>{text(value)}</code>' if term in as_code else text(value)}</dd>"
        for term, value in pairs.items()
    )
    return Html(f"<dl>{''.join(rows)}</dl>")


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, footer: Sequence[str] = (), caption: str = ""
) -> Html:
    """A table whose first column names the row; the footer is a row of another kind, such as a ratio."""
    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in header)
    body = "".join(_row(row) for row in rows)
    foot = f"<tfoot>{_row(footer)}</tfoot>" if footer else ""
    note = paragraph(caption, kind="note") if caption else ""
    return Html(
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>{foot}</table></div>{note}'
    )


def figure(png: Path, *, alt: str, caption: str = "") -> Html:
    """A PNG file, embedded; on a narrow screen it scrolls rather than shrinking to nothing."""
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    image = f'<img src="{data_uri(png.read_bytes())}" alt="{text(alt)}">'
    return Html(f'<figure><div class="wide">{image}</div>{below}</figure>')


def data_uri(png: bytes) -> str:
    """A PNG as the address of an image."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def picture_png(image: Tensor) -> bytes:
    """A `uint8` image, (1 or 3, H, W), as PNG."""
    from PIL import Image

    if image.dim() != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"an image is (1, H, W) or (3, H, W); got {tuple(image.shape)}.")
    pixels = image[0] if image.shape[0] == 1 else image.permute(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels.contiguous().numpy()).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _row(cells: Sequence[str]) -> str:
    first, *rest = cells
    return f'<tr><th scope="row">{text(first)}</th>{"".join(f"<td>{text(cell)}</td>" for cell in rest)}</tr>'
