"""Markdown: tables, pages, and pages with a generated part."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from dynaconv.files import write_text

_RULES = {"l": "---", "r": "---:"}


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]], align: str = "lr") -> Iterator[str]:
    """Yield the lines of a table; each row's line comes as soon as `rows` yields the row.

    Args:
        columns: Headers.
        rows: Cells, as many as columns or fewer; missing cells are empty.
        align: `l` or `r` for each column. The last letter also holds for all further columns.
    """
    rules = [_RULES[align[min(index, len(align) - 1)]] for index in range(len(columns))]
    for cells in (columns, rules):
        yield _line(cells)
    for row in rows:
        yield _line([*row, *[""] * (len(columns) - len(row))])


def _line(cells: Iterable[object]) -> str:
    texts = (str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(texts)} |"


def write_page(path: Path, blocks: Iterable[str]) -> None:
    """Write a page of blocks such as headings, paragraphs, tables and figures."""
    write_text(path, "\n\n".join(blocks) + "\n")


def replace_between(page: str, marks: tuple[str, str], body: str) -> str:
    """Return a page with a new text between two lines.

    Raises:
        ValueError: The page does not have each of the two lines once.
    """
    first, last = marks
    if page.count(first) != 1 or page.count(last) != 1:
        raise ValueError(f"the page needs the lines {first} and {last} once each; the results go between them.")
    return f"{page.split(first)[0]}{first}\n\n{body}\n\n{last}{page.split(last)[1]}"
