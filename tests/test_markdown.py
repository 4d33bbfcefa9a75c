"""Tables and pages of Markdown."""

import pytest

from dynaconv.markdown import markdown_table, replace_between
from tests.messages import refuses


def test_a_table_aligns_its_columns_and_fills_missing_cells() -> None:
    lines = list(markdown_table(("a", "b", "c"), [["x|y", 1, 2.5], ["two\nlines"]], "lr"))
    assert lines == ["| a | b | c |", "| --- | ---: | ---: |", "| x\\|y | 1 | 2.5 |", "| two lines |  |  |"]


def test_lines_come_with_their_rows() -> None:
    def rows() -> object:
        yield ["first"]
        raise RuntimeError

    lines = markdown_table(["a"], rows())
    assert [next(lines) for _ in range(3)] == ["| a |", "| --- |", "| first |"]
    with pytest.raises(RuntimeError):
        next(lines)


def test_a_part_of_a_page_is_replaced() -> None:
    marks = ("<begin>", "<end>")
    page = replace_between("before\n<begin>old<end>\nafter", marks, "new")
    assert page == "before\n<begin>\n\nnew\n\n<end>\nafter"
    assert replace_between(page, marks, "new") == page
    with refuses(ValueError, "<begin>"):
        replace_between("<begin>", marks, "new")
