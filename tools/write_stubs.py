"""Writes `src/dynaconv/families/__init__.pyi`, from which editors and type checkers know the options of every layer.

    python tools/write_stubs.py

The options of a layer are the fields of its config, so its constructor takes ``**options``. Its signature at run time
names them; the stub does for tools that do not run code.
"""

import ast
import inspect
import re
import textwrap
from pathlib import Path

from dynaconv import families

STUB = Path(families.__file__).with_suffix(".pyi")
SOURCE = Path(families.__file__)


def stub() -> str:
    """Return the content of the stub: the imports of the package, each constructor once, and every layer."""
    lines = [
        '"""Written by tools/write_stubs.py."""',
        "",
        "from collections.abc import Sequence",
        "from typing import Literal",
        "",
        "import torch",
        "",
    ]
    constructors: dict[str, str] = {}
    layers = []
    for statement in ast.parse(SOURCE.read_text(encoding="utf-8")).body:
        if not isinstance(statement, ast.ImportFrom):
            continue
        for name in (alias.name for alias in statement.names):
            value = getattr(families, name)
            concrete = inspect.isclass(value) and not inspect.isabstract(value)
            if concrete and issubclass(value, families.DynamicLayer):
                lines.append(f"from {statement.module} import {name} as _{name}")
                made_by = constructors.setdefault(_constructor(value), f"_{name}Options")
                layers.append(f"class {name}({made_by}, _{name}): ...")
            elif name in vars(families)["__all__"]:
                lines.append(f"from {statement.module} import {name} as {name}")
    shared = [f"class {name}:\n{text}" for text, name in constructors.items()]
    return "\n".join([*lines, "", *shared, *layers, ""])


def _constructor(layer: type) -> str:
    parameters = ["self"]
    for parameter in inspect.signature(layer).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parameters:
            parameters.append("*")
        text = inspect.formatannotation(parameter.annotation)
        text = re.sub(
            r"Optional\[(.*)\]$", r"\1 | None", text.replace("typing.", "").replace("collections.abc.", "")
        ).replace("'", '"')
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}".replace("'", '"')
        parameters.append(f"{parameter.name}: {text}{default}")
    # What follows the heading, up to the next section; indented anew for a method.
    options = (inspect.getdoc(layer) or "").partition("Options:\n")[2].partition("\n\n")[0]
    documentation = textwrap.indent(f"The arguments of torch's layer.\n\nOptions:\n{options}\n", " " * 8).strip()
    return (
        f"    def __init__(\n        {f',{chr(10)}        '.join(parameters)},\n    ) -> None:\n"
        f'        """{documentation}\n        """\n'
    )


if __name__ == "__main__":
    STUB.write_text(stub(), encoding="utf-8")
