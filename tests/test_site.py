"""The documentation as a whole: every public name has a page, every page a place, every link a target."""

import dataclasses
import importlib
import posixpath
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynaconv.families import families
from dynaconv.families.family import Family

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")), *sorted(DOCS.rglob("*.md"))]
HOOK = runpy.run_path(str(ROOT / "tools" / "site_hook.py"))


def prose(page: Path) -> str:
    """The text of a page without its code."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    texts = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in texts}


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Path and anchor of each link and picture of a page that does not lead to another host."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield path, anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_resolves(page: Path) -> None:
    for path, anchor in links(page):
        target = Path(posixpath.normpath(page.parent / path)) if path else page
        assert target.exists(), path
        if anchor:
            assert anchor in anchors(target), f"{path}#{anchor}"


def test_every_public_name_has_a_place_in_the_reference() -> None:
    pages = dict(HOOK["reference"]())
    sections = [name for text in pages.values() for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)]
    assert len(sections) == len(set(sections))

    def value(name: str) -> Any:
        module, _, attribute = name.rpartition(".")
        return getattr(importlib.import_module(module), attribute)

    documented = {(name.rpartition(".")[2], id(value(name))) for name in sections}
    packages = (file.parent.relative_to(ROOT / "src") for file in (ROOT / "src/dynaconv").rglob("__init__.py"))
    for package in map(importlib.import_module, (".".join(path.parts) for path in packages)):
        for name in getattr(package, "__all__", ()):
            assert (name, id(getattr(package, name))) in documented, f"{package.__name__}.{name}"
    assert all(f"[{name}]" in pages["reference/index.md"] for name in sections)


def entries(node: Any) -> Iterator[str]:
    """The pages below a node of the navigation."""
    if isinstance(node, str):
        yield node
    else:
        for child in node.values() if isinstance(node, dict) else node:
            yield from entries(child)


def test_every_page_begins_with_its_kind() -> None:
    kinds = {"Tutorials": "Tutorial", "Guides": "Guide", "Families": "Reference"}
    kinds |= {"Reference": "Reference", "Reports": "Report"}
    sources = {page: source for source, page in HOOK["TOP_PAGES"].items()}
    for section in yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"][1:]:
        ((title, pages),) = section.items()
        for page in set(entries(pages)) - {"changelog.md", "reference/index.md"}:
            file = ROOT / sources.get(page, f"docs/{page}")
            if not file.with_name("runs.csv").exists():  # written by `dynaconv study`
                first = re.search(r"^# .+\n\n(.+)", file.read_text(encoding="utf-8"), re.MULTILINE)
                assert first is not None, page
                assert first[1].startswith(f"{kinds[title]}. "), page


def test_every_page_has_a_place_in_the_navigation() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = list(entries(config["nav"]))
    assert len(listed) == len(set(listed))
    unlisted = set(config["not_in_nav"].split())
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if page.name not in unlisted}
    assert set(listed) - {*HOOK["TOP_PAGES"].values(), "reference/index.md"} == pages


def test_links_of_the_front_page_are_set_for_the_site() -> None:
    def relinked(text: str, source: str, target: str) -> str:
        return HOOK["relink"](text, source, target, HOOK["TOP_PAGES"])

    assert relinked("[`a`](docs/a.md#b) ![](docs/c.png)", "README.md", "index.md") == "[`a`](a.md#b) ![](c.png)"
    assert relinked("[a](../../README.md)", "docs/results/full.md", "results/full.md") == "[a](../index.md)"
    assert relinked("[the licence](LICENSE)", "README.md", "index.md") == "the licence (`LICENSE`)"
    assert relinked("```\n[a](docs/a.md)\n```", "README.md", "index.md") == "```\n[a](docs/a.md)\n```"


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_asks_no_other_host(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    loads = re.compile(r"<(?:script|img|link|source|iframe)\b[^>]*(?:src|href)=\"?(https?:[^\s\">]+)")
    for page in tmp_path.rglob("*.html"):
        assert not loads.findall(page.read_text(encoding="utf-8")), page


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_the_page_of_a_family_names_every_option(family: Family) -> None:
    options = {field.name for layer in family.layers for field in dataclasses.fields(layer.config_class)}
    options.discard("shared_context")  # which only convert(..., context="block") sets
    text = (DOCS / "families" / f"{family.name}.md").read_text(encoding="utf-8")
    assert [name for name in sorted(options) if f"`{name}`" not in text] == []


def test_the_page_of_published_names_has_every_key_that_is_translated() -> None:
    page = (DOCS / "published-names.md").read_text(encoding="utf-8")
    tables = {"dcd": "DCD_STEMS", "odconv": "ODCONV_STEMS", "kernel_warehouse": "STEMS", "fdconv": "FDCONV_STEMS"}
    for family, table in tables.items():
        for published in vars(importlib.import_module(f"dynaconv.families.{family}.published"))[table]:
            assert published.rstrip(".") in page, (family, published)
