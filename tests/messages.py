"""Messages of errors: a test names the exception and the names in its message, messages.txt holds the wording.

This is a plugin of pytest. `pytest --update-messages` writes the messages of the tests that ran and passed.
"""

import re
import tempfile
import traceback
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

import dynaconv
from dynaconv.errors import DynaconvError

E = TypeVar("E", bound=BaseException)
Entries = dict[str, list[str]]
"""Messages in the order in which a test gets them, by the test's node id relative to tests/."""

TESTS = Path(__file__).resolve().parent
OWN = (TESTS, Path(dynaconv.__file__).parent)
FILE = TESTS / "messages.txt"
HEAD = "# What the errors say that the tests provoke. Written by `pytest --update-messages`; see CONTRIBUTING.md."
TEMPORARY = re.escape(str(Path(tempfile.gettempdir()).resolve()))

PLACEHOLDERS = (
    # The checkout.
    (re.compile(rf"{re.escape(str(TESTS.parent))}(?=/)"), "<repository>"),
    # A test's folder and the one above it: pytest counts its runs and folders, and xdist's workers have one each.
    (re.compile(rf"{TEMPORARY}/pytest-of-[^/]+/pytest-\d+(/popen-gw\d+)?(/[\w.-]*\w)?"), "<tmp>"),
    # Any other temporary file or folder: its name is drawn.
    (re.compile(rf"{TEMPORARY}/[\w.-]*\w"), "<tmp>"),
    # The user's own folder.
    (re.compile(rf"{re.escape(str(Path.home()))}(?=/)"), "<home>"),
    # Objects without a repr of their own.
    (re.compile(r"\b0x[0-9a-f]{6,}\b"), "<address>"),
    # Of files that change.
    (re.compile(r"\b(?=\d*[a-f])[0-9a-f]{12,}\b"), "<digest>"),
    # Processes and servers of the test.
    (re.compile(r"(?<=pid )\d+|(?<=127\.0\.0\.1:)\d+"), "<id>"),
    # Packages, dynaconv included, but no IP address.
    (re.compile(r"(?<![\d.])\d+\.\d+\.\d+(?!\.?\d)(\.dev\d+|\.post\d+|(a|b|rc)\d+)?(\+\w+)?"), "<version>"),
    # Measured numbers: their last digits differ from machine to machine.
    (re.compile(r"\d+(\.\d+)?e[+-]\d+|\d+\.\d{5,}"), "<number>"),
)


def settled(message: str) -> str:
    """The message with placeholders for what differs from run to run."""
    for pattern, name in PLACEHOLDERS:
        message = pattern.sub(name, message)
    return message


def without_causes(error: BaseException) -> str:
    """The message, with <cause> for what it takes over from another package's error: that wording is not ours."""
    message, cause = str(error), error.__cause__
    while cause is not None:
        places = [Path(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(cause.__traceback__)]
        own = isinstance(cause, DynaconvError) or not places or any(places[-1].is_relative_to(folder) for folder in OWN)
        if not own:
            for text in (" ".join(str(cause).split()), str(cause).partition("\n")[0]):
                message = message.replace(text.rstrip(" .:;,"), "<cause>") if text else message
        cause = cause.__cause__
    # Python 3.13 adds a suggestion to the error of an unknown argument.
    return re.sub(r"(unexpected keyword argument '\w+')\. Did you mean '\w+'\?", r"\1", message)


def written(entries: Mapping[str, list[str]]) -> str:
    """The text of messages.txt; the cases of one test that get the same messages share them."""
    shared: dict[tuple[str, ...], list[str]] = {}
    for key in sorted(key for key, messages in entries.items() if messages):
        shared.setdefault((key.partition("[")[0], *entries[key]), []).append(key)
    blocks = [
        "\n".join([*keys, *(f"    {message}" for message in messages)]) for (_, *messages), keys in shared.items()
    ]
    return "\n\n".join([HEAD, *blocks]) + "\n"


def read(text: str) -> Entries:
    """The entries of such a text."""
    entries: Entries = {}
    for block in text.split("\n\n")[1:]:
        lines = block.splitlines()
        messages = [line.strip() for line in lines if line.startswith(" ")]
        entries |= {line: messages for line in lines if not line.startswith(" ")}
    return entries


def stale(entries: Iterable[str], collected: Collection[str]) -> list[str]:
    """Entries whose test is gone. A file that exists and has no test was skipped as a whole, for want of a package."""
    files = {key.partition("::")[0] for key in collected}
    return [
        key
        for key in entries
        if key not in collected and ((file := key.partition("::")[0]) in files or not (TESTS / file).exists())
    ]


class Book:
    """The recorded messages, compared with those of this run."""

    def __init__(self, entries: Entries, *, updating: bool) -> None:
        self.entries, self.updating = entries, updating
        self.ended: Entries = {}
        self.stale: set[str] = set()
        self.key = ""
        self.seen: list[str] = []

    def begin(self, key: str) -> None:
        """A test starts."""
        self.key, self.seen = key, []

    def check(self, message: str) -> None:
        """Compare the next message of the test, or note it. One that repeats the last is the same message."""
        if self.seen[-1:] == [message]:
            return
        self.seen.append(message)
        number, recorded = len(self.seen), self.entries.get(self.key, [])
        if self.updating:
            return
        if number > len(recorded):
            self._fail(f"message {number} of this test is not recorded; read it, then", f":\n{message}")
        if message != recorded[number - 1]:
            self._fail(
                f"message {number} of this test has changed; if it was meant to,",
                f".\nrecorded: {recorded[number - 1]}\nnow:      {message}",
            )

    def end(self) -> None:
        """The test has passed."""
        recorded = self.entries.get(self.key, [])
        if self.updating:
            if self.ended.setdefault(self.key, self.seen) != self.seen:
                self._fail("the cases of this test get different messages; take its marker away, then", ".")
        elif len(self.seen) < len(recorded):
            self._fail(f"{len(recorded)} messages of this test are recorded, and it got {len(self.seen)};", ".")

    def updated(self) -> Entries:
        """The entries with those of the tests that passed, without those whose tests are gone."""
        return {key: messages for key, messages in (self.entries | self.ended).items() if key not in self.stale}

    def _fail(self, what: str, rest: str) -> None:
        test = self.key.partition("[")[0]
        pytest.fail(f'{what} run `pytest --update-messages "tests/{test}"`{rest}', pytrace=False)


_book = Book({}, updating=False)


def key_of(item: pytest.Item) -> str:
    """The test's node id relative to tests/, with * for what the marker `same_messages_for` names."""
    key = item.nodeid.removeprefix("tests/")
    marker = item.get_closest_marker("same_messages_for")
    if marker is None or not isinstance(item, pytest.Function):
        return key
    for name in marker.args:
        value = item.callspec.params[name]
        text = re.escape(getattr(value, "__name__", str(value)))
        key, found = re.subn(rf"(?<=[\[-]){text}(?=[]-])", "*", key, count=1)
        if not found:
            raise pytest.UsageError(f"{item.nodeid} does not hold the value {value!r} of the marker's {name}")
    return key


@contextmanager
def refuses(kind: type[E] | tuple[type[E], ...], *names: str, **varying: str) -> Iterator[pytest.ExceptionInfo[E]]:
    """`pytest.raises` for a message of dynaconv: one line that holds the names and reads as messages.txt has it.

    A name given by keyword stands there as <keyword>, for cases whose messages are otherwise the same.
    """
    with pytest.raises(kind) as caught:
        yield caught
    message = without_causes(caught.value)
    for name in (*names, *varying.values()):
        if name not in str(caught.value):
            pytest.fail(f"{name!r} is not in the message: {caught.value}", pytrace=False)
    for placeholder, name in varying.items():
        message = message.replace(name, f"<{placeholder}>")
    message = settled(message)
    if message.splitlines() != [message.strip()]:
        pytest.fail(f"the message is not one line of text: {message!r}", pytrace=False)
    _book.check(message)


def spelled(value: object) -> str | None:
    """A test's options as a call has them, for `ids=` of pytest.mark.parametrize: node ids are keys of messages.txt."""
    if isinstance(value, dict):
        return ", ".join(f"{name}={each!r}" for name, each in value.items())
    return None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Hook of pytest."""
    parser.addoption("--update-messages", action="store_true", help="write tests/messages.txt from the tests that run")


def pytest_configure(config: pytest.Config) -> None:
    """Hook of pytest."""
    global _book
    config.addinivalue_line("markers", "same_messages_for(*parameters): these do not change what the errors say")
    entries = read(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    _book = Book(entries, updating=config.getoption("--update-messages"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Hook of pytest: all tests, before markers and keywords choose among them."""
    whole = any(TESTS.is_relative_to(Path(arg).resolve()) for arg in config.args) and not config.getoption("lf", False)
    if whole:
        _book.stale = set(stale(_book.entries, {key_of(item) for item in items}))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Hook of pytest."""
    _book.begin(key_of(item))
    result = yield
    _book.end()
    return result


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hook of pytest: a worker of xdist hands its messages over, and one process writes."""
    if not _book.updating:
        return
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["messages"] = (_book.ended, sorted(_book.stale))
    else:
        FILE.write_text(written(_book.updated()), encoding="utf-8")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Hook of xdist: a worker has ended."""
    ended, gone = getattr(node, "workeroutput", {}).get("messages", ({}, ()))
    _book.ended |= ended
    _book.stale |= set(gone)


def stale_entries() -> list[str]:
    """Those of this run, where all of tests/ was collected."""
    return [] if _book.updating else sorted(_book.stale)
