"""Pages of the documentation site that are made from other files: a hook of mkdocs, named in mkdocs.yml.

README.md is the front page, CHANGELOG.md and CONTRIBUTING.md are pages too, and the reference has a page for each part
of the package, on which mkdocstrings sets the docstrings of its public names. The explorer is part of the site if
`make page` has built it.
"""

import ast
import importlib
import inspect
import posixpath
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from dynaconv.families import DynamicLayer

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
TOP_PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
REFERENCE = "reference"
EXPLORER = SOURCE / "dynaconv" / "explore" / "page"
APP = "explorer/app"
"""Folder of the explorer in the site."""
APP_LINK = "<!-- the explorer -->"
"""Place of the link to it, on the page explorer.md."""
WITH_INHERITED = {"dynaconv.DynamicConv": "\n    options: {inherited_members: true}"}
"""Directive of names that are shown with the members of their bases: the contract of all layers."""
_LINK = re.compile(r"(?P<text>!?\[(?:[^\[\]]|\[[^\]]*\])*\])\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"(```.*?```)", re.DOTALL)


def public_names() -> dict[str, Any]:
    """Return what the ``__all__`` of each package lists, by its shortest full name, such as ``dynaconv.convert``.

    Modules that are no package list the functions that build timm's networks, which docs/models.md lists.
    """
    files = (SOURCE / "dynaconv").rglob("__init__.py")
    listing = [file.parent for file in files if "\n__all__ = " in file.read_text(encoding="utf-8")]
    modules = [".".join(folder.relative_to(SOURCE).parts) for folder in listing]
    found: dict[tuple[str, int], tuple[str, Any]] = {}
    for module in sorted(modules, key=lambda name: (name.count("."), name)):
        for name in importlib.import_module(module).__all__:
            value = getattr(importlib.import_module(module), name)
            found.setdefault((name, id(value)), (f"{module}.{name}", value))
    return dict(sorted(found.values()))


def pages() -> dict[str, list[str]]:
    """Return the public names on each page of the reference; a page is a package and its modules, or a family."""
    found: dict[str, list[str]] = {}
    for name, value in public_names().items():
        module = getattr(value, "__module__", None) if inspect.isroutine(value) or inspect.isclass(value) else None
        parts = (module or name.rpartition(".")[0]).split(".")
        family = parts[1] == "families" and (SOURCE.joinpath(*parts[:3]) / "family.py").is_file()
        found.setdefault(".".join(parts[1 : 3 if family else 2]), []).append(name)
    return dict(sorted(found.items()))


def _summary(value: Any) -> str:
    return (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def reference() -> Iterator[tuple[str, str]]:
    """Yield path and Markdown of each page of the reference."""
    values = public_names()
    rows = []
    for page, names in pages().items():
        package = importlib.import_module(f"dynaconv.{page}")
        text = [f"# dynaconv.{page}", "", inspect.getdoc(package) or "", ""]
        yield (
            f"{REFERENCE}/{page}.md",
            "\n".join(text + [f"::: {name}{WITH_INHERITED.get(name, '')}\n" for name in names]),
        )
        rows += [(name, f"| [`{name}`][{name}] | {_summary(values[name])} |") for name in names]
    index = ["# Public names", "", "Reference. Import each name as it is written here. Those directly below `dynaconv`"]
    index += ["need torch alone.", "", "| name | summary |", "| --- | --- |", *(row for _, row in sorted(rows))]
    yield f"{REFERENCE}/index.md", "\n".join(index) + "\n"


def relink(text: str, source: str, target: str, pages: Mapping[str, str]) -> str:
    """Return Markdown of the file ``source`` with the links it needs as the page ``target`` of the site.

    Links to files that are not in the site become their text, with the path of the file.
    """

    def replace(match: re.Match[str]) -> str:
        path, mark, anchor = match["target"].partition("#")
        if not path or ":" in path:
            return match[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        page = pages.get(file, file.removeprefix("docs/") if file.startswith("docs/") else None)
        if page is None:
            return f"{match['text'][1:-1]} (`{file}`)"
        return f"{match['text']}({posixpath.relpath(page, posixpath.dirname(target) or '.')}{mark}{anchor})"

    parts = _CODE.split(text)
    return "".join(part if number % 2 else _LINK.sub(replace, part) for number, part in enumerate(parts))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages of the reference to the navigation."""
    for section in config.nav or []:
        if isinstance(section, dict) and "Reference" in section:
            section["Reference"] += [{f"dynaconv.{page}": f"{REFERENCE}/{page}.md"} for page in pages()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not below docs/."""
    for source, page in TOP_PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for page, text in reference():
        files.append(File.generated(config, page, content=text))
    if _has_explorer():
        for file in filter(Path.is_file, EXPLORER.rglob("*")):
            place = f"{APP}/{file.relative_to(EXPLORER).as_posix()}"
            files.append(File.generated(config, place, abs_src_path=str(file)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Set the links of a page for the site, where README.md and its like have other places."""
    target = page.file.src_uri
    source = next((name for name, top in TOP_PAGES.items() if top == target), f"docs/{target}")
    if _has_explorer():
        markdown = markdown.replace(APP_LINK, f"[Open the explorer]({APP}/index.html){{ .md-button }}")
    return relink(markdown, source, target, TOP_PAGES)


def _has_explorer() -> bool:
    """Return whether the page of the explorer and its networks are built."""
    return (EXPLORER / "index.html").is_file() and (EXPLORER / "networks" / "index.json").is_file()


def _constructor(layer: type) -> griffe.Function:
    """Return the constructor of a layer with the signature that names its options."""
    parameters = [
        griffe.Parameter(
            each.name,
            annotation=inspect.formatannotation(each.annotation),
            kind=griffe.ParameterKind(each.kind.description),
            default=None if each.default is each.empty else repr(each.default),
        )
        for each in inspect.signature(layer).parameters.values()
    ]
    return griffe.Function("__init__", parameters=griffe.Parameters(*parameters))


class Docstrings(griffe.Extension):
    """Gives griffe the docstrings in the form that it reads, and the options of the configs as attributes."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rename the section ``Options:`` of layers, and join the names of arguments that go on in a second line."""
        layer = getattr(sys.modules.get(obj.path.rpartition(".")[0]), obj.name, None)
        if inspect.isclass(layer) and issubclass(layer, DynamicLayer):
            assert isinstance(obj, griffe.Class)
            # With the section, and the signature, that a layer gets when it is defined. In the stub, it has a second
            # base with that signature.
            obj.docstring = griffe.Docstring(inspect.getdoc(layer) or "", parent=obj)
            obj.set_member("__init__", _constructor(layer))
            obj.bases = [base for base in obj.bases if not str(base).endswith("Options")]
        if obj.docstring:
            text = re.sub(r"(?m)^Options:$", "Other Parameters:", obj.docstring.value)
            obj.docstring.value = re.sub(r"(?m)^(    [\w, ]+,)\n +(?=[\w, ]+:)", r"\1 ", text)

    def on_attribute(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        """Read ``option(default, meaning)`` as a default and a docstring."""
        value = attr.value
        if isinstance(value, griffe.ExprCall) and str(value.function) == "option":
            default, meaning = value.arguments
            attr.value = default
            attr.docstring = griffe.Docstring(ast.literal_eval(str(meaning)), parent=attr)
