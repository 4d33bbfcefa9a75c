"""Self-contained HTML reports from jinja2 templates: one file that loads nothing from other files or servers.

A template extends `explain/report.html`, which has the style sheet, the links to the sections and the facts of the run,
and imports the macros of `explain/parts.html`. All values are escaped.
"""

from __future__ import annotations

import base64
import io
import platform
import re
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from torch import Tensor

from dynaconv.explain.figures import png_bytes


def render(template: str, *, title: str, facts: Mapping[str, str], **values: Any) -> str:
    """Return the HTML of a report.

    Args:
        template: Path of the template in the package, such as `demo/report.html`.
        title: Heading, and title of the window.
        facts: Terms and values for the last section, including `Command` and `dynaconv`.
        values: Further variables of the template.
    """
    return environment().get_template(template).render(title=title, facts=facts, contents=[], **values)


def software_facts(*packages: str) -> dict[str, str]:
    """Return the facts of a report that name versions, those of Python, dynaconv and some packages, and the date."""
    versions = [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)]
    return {
        "dynaconv": version("dynaconv"),
        "Software": ", ".join(versions),
        "Date": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
    }


def environment() -> Environment:
    """Return the environment in which all reports are rendered."""
    made = Environment(
        loader=PackageLoader("dynaconv", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["anchor"] = anchor
    return made


def anchor(title: str) -> str:
    """Return the id of a section in the page."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def data_uri(png: bytes) -> str:
    """Return a PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def embedded_figure(figure: Figure) -> str:
    """Return a figure as a data URI."""
    return data_uri(png_bytes(figure))


def embedded_image(image: Tensor) -> str:
    """Return a `uint8` image, (1 or 3, H, W), as a data URI."""
    from torchvision.transforms.functional import to_pil_image

    buffer = io.BytesIO()
    to_pil_image(image).save(buffer, "PNG", optimize=True)
    return data_uri(buffer.getvalue())
