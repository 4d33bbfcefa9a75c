"""The commands in the documentation: cheap ones run, all others are parsed, and every path and target exists.

`tests/test_public.py` runs the Python blocks.
"""

import argparse
import importlib.util
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dynaconv.cli import main, make_parser
from dynaconv.commands.study import _checked_seeds, _checked_variants
from dynaconv.commands.train import SHORT_FLAGS
from dynaconv.study.load import load_study
from dynaconv.train.config import TrainConfig, load_recipe, parse_overrides, resolve

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "docs", "examples", "explorer", "src", "tests", "tools")
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
TARGETS = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
BUILT = "src/dynaconv/explore/page/"
"""A folder that `make page` makes."""
_HEREDOC = re.compile(r"<<'?(\w+)'?[^\n]*\n.*?^\1$", re.DOTALL | re.MULTILINE)
_KEYWORDS = {"do", "done", "then", "else", "fi", "if", "srun"}
_OUTPUTS = ("-o", "--out", "--json", "--csv", "--folder", "-L")
_PLACEHOLDER = re.compile(r"[A-Z]+")


def code(page: Path) -> Iterator[str]:
    """The shell code of a page: blocks of bash and sh, and indented ones that call python, make or dynaconv."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^( *)```(?:bash|sh)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE):
        yield block[1]
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    yield from re.findall(r"^    ((?:python|make|dynaconv) (?:.*\\\n)*.*)$", text, re.MULTILINE)


def separated(block: str) -> Iterator[str]:
    """The words and separators of a block without comments; a line ends with a separator."""
    for line in _HEREDOC.sub("", block.replace("\\\n", " ")).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
        lexer.whitespace_split = True
        yield from lexer
        yield ";"


def commands(block: str) -> Iterator[list[str]]:
    """The simple commands of a block, without assignments, keywords and redirections; a loop runs once."""
    values: dict[str, str] = {}
    words: list[str] = []
    for word in separated(block):
        if not set(word) <= set(";&|"):
            words.append(word)
            continue
        while words and (words[0] in _KEYWORDS or re.match(r"\w+=", words[0])):
            name, equals, value = words.pop(0).partition("=")
            if equals:
                values[name] = value
        if words[:1] == ["for"]:
            values[words[1]] = words[3]
        elif words:
            redirected = [i for i, each in enumerate(words) if set(each) <= set("<>&")]
            plain = words[: min(redirected, default=len(words))]
            expand = re.compile(r"\$\{?(\w+)\}?")
            yield [expand.sub(lambda match: values.get(match[1], "0"), each) for each in plain if each != "$@"]
        words = []


def dynaconv_words(words: list[str]) -> list[str] | None:
    """The arguments of a command that runs dynaconv; None for others."""
    if words[0].endswith("dynaconv"):
        return words[1:]
    if words[0] in ("python", "torchrun") and "-m" in words:
        position = words.index("-m")
        return words[position + 2 :] if words[position + 1] == "dynaconv" else None
    return None


FOUND = [(page, words) for page in PAGES for block in code(page) for words in commands(block)]
OURS = {" ".join(words): argv for _, each in FOUND if (argv := dynaconv_words(each)) is not None for words in [argv]}
CHEAP = [
    argv
    for argv in OURS.values()
    if argv[0] in ("env", "models")
    or (argv[0] == "convert" and "--pretrained" not in argv)
    or any(word.startswith(("--help", "--list", "--version")) for word in argv)
    or (argv[0] == "profile" and "--latency" not in argv and not argv[1].startswith("runs/"))
]


def exit_code(argv: list[str]) -> int:
    """The exit code of a command, which argparse gives by an exception."""
    try:
        return main(argv)
    except SystemExit as stopped:
        return int(stopped.code or 0)


def scripts() -> Iterator[Any]:
    for page, (program, *words) in FOUND:
        if program == "python" and words[0].endswith(".py"):
            yield pytest.param(words[0], words[1:], id=f"{page.relative_to(ROOT)}-{words[0]}")


def test_the_commands_of_the_pages_are_found() -> None:
    for page in PAGES:
        unnamed = re.findall(r"^ *```\n *(?:dynaconv|make|python) .*", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert not unnamed, f"{page}: write ```bash"
    assert len(OURS) > 60
    assert len(CHEAP) >= 6
    block = "for n in a b; do X=1 dynaconv train --model ${n}_net \\\n  'two words' > log; done  # a comment\n"
    block += "f <<'E'\nx\nE\n"
    assert list(commands(block)) == [["dynaconv", "train", "--model", "a_net", "two words"], ["f"]]


@pytest.mark.parametrize("argv", list(OURS.values()), ids=list(OURS))
def test_a_command_has_arguments_that_dynaconv_knows(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if argv[-1].startswith("--help"):
        assert exit_code(argv) == 0
        return
    arguments, rest = make_parser().parse_known_args(argv)
    assert not rest or arguments.passes_on
    if arguments.command == "train" and len(argv) > 1 and not (arguments.resume or arguments.help_all):
        parse_overrides(rest, short=SHORT_FLAGS)
        given = [(key, getattr(arguments, key)) for key, _, _ in SHORT_FLAGS.values()]
        recipe = arguments.config
        config = load_recipe("digits" if recipe == "my.yaml" else recipe) if recipe else TrainConfig()
        resolve(config, [*(f"--{key}={value}" for key, value in given if value is not None), *rest])
    if arguments.command == "study" and arguments.study and not _PLACEHOLDER.fullmatch(arguments.study):
        study = load_study(arguments.study)
        _checked_variants(study, arguments.only)
        _checked_seeds(study, arguments.seeds)


@pytest.mark.parametrize("argv", CHEAP, ids=" ".join)
def test_a_cheap_command_runs(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(argv) == 0
    assert capsys.readouterr().out


class ParsedError(Exception):
    """The arguments of a script are parsed."""


@pytest.mark.parametrize(("script", "words"), list(scripts()))
def test_a_script_exists_and_knows_its_arguments(
    script: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if script == "train.py":
        pytest.skip("timm's script")
    parse = argparse.ArgumentParser.parse_known_args

    def stop(self: argparse.ArgumentParser, *args: Any, **options: Any) -> None:
        assert not parse(self, *args, **options)[1]
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
    monkeypatch.setattr(sys, "argv", [script, *words])
    monkeypatch.syspath_prepend(str((ROOT / script).parent))
    with pytest.raises(ParsedError):
        runpy.run_path(str(ROOT / script), run_name="__main__")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_targets_modules_extras_and_paths_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = [words for each, words in FOUND if each == page]
    named += [shlex.split(inline) for inline in re.findall(r"`(make [^`\n]+)`", text)]
    for words in named:
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= TARGETS, words
        if words[:2] == ["python", "-m"] and words[2] != "venv":
            assert importlib.util.find_spec(words[2]), words
        if words[0] == "pip":
            for extras in re.findall(r"(?:^\.|dynaconv)\[(.+)\]", " ".join(words)):
                assert set(extras.split(",")) <= EXTRAS, words
        for before, word in zip(["", *words], words, strict=False):
            if word.split("/")[0] in FOLDERS and "/" in word and before not in _OUTPUTS:
                assert any(ROOT.glob(word)), words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_and_options_in_the_text_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    subparsers = next(each for each in make_parser()._actions if isinstance(each, argparse._SubParsersAction))
    for inline in re.findall(r"`([^`\n]+)`", text):
        path = re.fullmatch(rf"((?:{'|'.join(FOLDERS)})/[\w./-]+)", inline)
        assert not path or (ROOT / path[1]).exists() or path[1] == BUILT, inline
        command = re.match(r"(?:\.venv/bin/)?dynaconv (\w+)\b", inline)
        if command and not _PLACEHOLDER.fullmatch(command[1]):
            assert command[1] in subparsers.choices, inline
            known = subparsers.choices[command[1]]._option_string_actions
            for flag in re.findall(r"(?<!\S)--?[a-z][\w-]*(?=[\s=]|$)", inline):
                assert flag in known, inline
