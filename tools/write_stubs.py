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
    """Return the content of the stub: the package's own imports, and a subclass with its signature for every layer."""
    lines = [
        '"""Written by tools/write_stubs.py."""',
        "",
        "from collections.abc import Sequence",
        "from typing import Literal",
        "",
        "import torch",
        "",
    ]
    layers = []
    for statement in ast.parse(SOURCE.read_text(encoding="utf-8")).body:
        if not isinstance(statement, ast.ImportFrom):
            continue
        for name in (alias.name for alias in statement.names):
            value = getattr(families, name)
            concrete = inspect.isclass(value) and not inspect.isabstract(value)
            if concrete and issubclass(value, families.DynamicLayer):
                layers.append(value)
                lines.append(f"from {statement.module} import {name} as _{name}")
            elif name in vars(families)["__all__"]:
                lines.append(f"from {statement.module} import {name} as {name}")
    return "\n".join([*lines, "", *map(_class, layers)])


def _class(layer: type) -> str:
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
    documentation = textwrap.indent(inspect.getdoc(layer) or "", "    ").strip()
    return (
        f'class {layer.__name__}(_{layer.__name__}):\n    """{documentation}"""\n\n'
        f"    def __init__(\n        {f',{chr(10)}        '.join(parameters)},\n    ) -> None: ...\n"
    )


if __name__ == "__main__":
    STUB.write_text(stub(), encoding="utf-8")
