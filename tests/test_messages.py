"""The messages of errors: how they are recorded, compared and written."""

import json
import tempfile
from pathlib import Path

import pytest

from tests import messages
from tests.messages import Book, Entries, read, refuses, settled, spelled, stale, stale_entries, without_causes, written

KEY = "a/test_a.py::test_a[x]"


def run(entries: Entries, *said: str, updating: bool = False, key: str = KEY) -> Book:
    """A test that gets these messages."""
    book = Book(entries, updating=updating)
    book.begin(key)
    for message in said:
        book.check(message)
    book.end()
    return book


def test_no_entry_has_lost_its_test() -> None:
    """Known where all of tests/ is collected; pytest --update-messages removes such entries."""
    assert stale_entries() == []


def test_recorded_messages_pass_and_repeated_ones_count_once() -> None:
    run({KEY: ["one", "two"]}, "one", "one", "two")
    run({})


@pytest.mark.parametrize(
    ("entries", "said", "words"),
    [
        ({}, ["one"], "message 1 of this test is not recorded"),
        ({KEY: ["one"]}, ["one", "two"], "message 2 of this test is not recorded"),
        ({KEY: ["one", "two"]}, ["one", "too"], "recorded: two\nnow:      too"),
        ({KEY: ["one", "two"]}, ["one"], "2 messages of this test are recorded, and it got 1"),
    ],
    ids=["none", "too few", "other", "too many"],
)
def test_what_is_not_as_recorded_fails(entries: Entries, said: list[str], words: str) -> None:
    with pytest.raises(pytest.fail.Exception) as caught:
        run(entries, *said)
    assert words in str(caught.value)
    assert 'pytest --update-messages "tests/a/test_a.py::test_a"' in str(caught.value)


def test_refuses_wants_the_type_the_names_and_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_book", Book({KEY: ["<layer> has no 'size'."]}, updating=False))
    messages._book.begin(KEY)
    with refuses(ValueError, "'size'", layer="Conv") as caught:
        raise ValueError("Conv has no 'size'.")
    assert str(caught.value) == "Conv has no 'size'."
    wrong = (
        (TypeError("Conv"), ()),
        (ValueError("Conv"), ("Linear",)),
        (ValueError("a\nConv"), ()),
        (ValueError(), ()),
    )
    for error, names in wrong:
        with pytest.raises((pytest.fail.Exception, TypeError)), refuses(ValueError, *names):
            raise error
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"), refuses(ValueError):
        pass


def test_updating_replaces_the_entries_of_tests_that_ran() -> None:
    book = run({KEY: ["old", "older"], "b": ["kept"], "c": ["gone"]}, "new", updating=True)
    book.stale = {"c"}
    assert book.updated() == {KEY: ["new"], "b": ["kept"]}
    assert read(written(run({KEY: ["old"]}, updating=True).updated())) == {}


def test_cases_that_share_an_entry_have_to_agree() -> None:
    book = run({}, "one", updating=True, key="t[*]")
    book.begin("t[*]")
    book.check("two")
    with pytest.raises(pytest.fail.Exception, match="marker"):
        book.end()


def test_the_file_reads_as_it_was_written() -> None:
    entries = {KEY: ["# one", "two"], "a/test_a.py::test_a[y]": ["# one", "two"], "b::c": ["3"]}
    text = written(entries)
    assert read(text) == entries
    assert text == written(read(text))
    assert text.count("two") == 1


def test_entries_without_a_test_are_stale() -> None:
    entries = ["test_messages.py::gone", "test_messages.py::here", "test_none.py::gone", "conftest.py::skipped"]
    assert stale(entries, ["test_messages.py::here"]) == ["test_messages.py::gone", "test_none.py::gone"]


@pytest.mark.parametrize(
    ("message", "want"),
    [
        ("{tmp}/pytest-of-me/pytest-12/popen-gw0/test_a0/a.pth; {tmp}/pytest-of-me/pytest-1", "<tmp>/a.pth; <tmp>"),
        ("cannot write {tmp}/tmp1a_b.", "cannot write <tmp>."),
        ("{repository}/src/a.py", "<repository>/src/a.py"),
        ("{home}/.cache/x", "<home>/.cache/x"),
        ("<object at 0x7f1b8344e940>", "<object at <address>>"),
        ("a/99d7906d359294b2 holds 99999999999999 bytes", "a/<digest> holds 99999999999999 bytes"),
        ("http://127.0.0.1:4711/ by pid 17", "http://127.0.0.1:<id>/ by pid <id>"),
        ("torch 2.10.0+cpu, dynaconv 0.1.0.dev3; 127.0.0.1", "torch <version>, dynaconv <version>; 127.0.0.1"),
        ("differs by 3.1e-05, more than 0.00012; lr=0.05", "differs by <number>, more than <number>; lr=0.05"),
    ],
    ids=["test", "temporary", "repository", "home", "address", "digest", "process", "versions", "numbers"],
)
def test_what_differs_from_run_to_run_has_a_placeholder(message: str, want: str) -> None:
    places = {
        "tmp": Path(tempfile.gettempdir()).resolve(),
        "repository": Path(__file__).parents[1],
        "home": Path.home(),
    }
    assert settled(message.format(**places)) == want


def test_what_another_package_says_has_a_placeholder() -> None:
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads("{")
    error = ValueError(f"a.json is no JSON: {caught.value}.")
    assert "Expecting" in without_causes(error)
    error.__cause__ = caught.value
    assert without_causes(error) == "a.json is no JSON: <cause>."


def test_options_are_spelled_as_in_a_call() -> None:
    assert spelled({"lr": 0.1, "name": "x"}) == "lr=0.1, name='x'"
    assert spelled(3) is None
