"""Run timm's own tests of its models over the networks that dynaconv registers, and print a table of the results.

    pip download --no-deps --no-binary timm --dest /tmp/timm timm && tar xf /tmp/timm/timm-*.tar.gz -C /tmp/timm
    python tools/timm_suite.py /tmp/timm/timm-1.0.31
    python tools/timm_suite.py /tmp/timm/timm-1.0.31 --names 'dcd_*' -k fx

timm's tests choose their networks with `timm.list_models`. Here it answers with our names alone, whatever module of
timm is asked for. Tests that name networks of timm's own do not run.
"""

import argparse
import fnmatch
import inspect
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
import timm

import dynaconv.models
from dynaconv.markdown import markdown_table


class Report:
    """Counts the outcomes of each test, and the reasons why it was skipped or failed."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Counter[str]] = defaultdict(Counter)
        self.reasons: dict[str, Counter[str]] = defaultdict(Counter)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave the tests that run over our names."""
        items[:] = [item for item in items if "model_name" in getattr(getattr(item, "callspec", None), "params", {})]
        items[:] = [item for item in items if _ours(item.callspec.params["model_name"])]  # type: ignore[attr-defined]

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note an outcome."""
        if report.when != "call" and report.passed:
            return
        test = report.location[2].split("[")[0]
        self.outcomes[test][report.outcome] += 1
        if report.outcome == "skipped":
            self.reasons[test][str(report.longrepr[2])] += 1
        elif report.outcome == "failed":
            crash = getattr(report.longrepr, "reprcrash", None)
            message = report.longreprtext if crash is None else crash.message
            self.reasons[test][message.strip().splitlines()[0][:160]] += 1

    def table(self) -> str:
        """A Markdown table: test, networks that passed, failed and were skipped, reasons."""
        rows = []
        for test, outcomes in self.outcomes.items():
            reasons = "; ".join(f"{reason} ({count})" for reason, count in self.reasons[test].items())
            rows.append([f"`{test}`", *(outcomes[outcome] for outcome in ("passed", "failed", "skipped")), reasons])
        return "\n".join(markdown_table(("test", "passed", "failed", "skipped", "reasons"), rows, "lrrrl"))


def _ours(name: Any) -> bool:
    # pytest has an object of its own in the place of a name where a test has none to run over.
    known = isinstance(name, str) and timm.is_model(name.split(".")[0])
    return known and timm.model_entrypoint(name.split(".")[0]).__module__.startswith(dynaconv.models.__name__)


def main() -> None:
    """Run the tests; exit with their status."""
    parser = argparse.ArgumentParser(description=inspect.cleandoc(__doc__ or "").splitlines()[0])
    parser.add_argument("timm", type=Path, help="timm's source: a folder with tests/test_models.py")
    parser.add_argument("--names", default="*", help="pattern of names (default: all)")
    arguments, options = parser.parse_known_args()
    tests = arguments.timm / "tests" / "test_models.py"
    if not tests.is_file():
        parser.error(f"{tests} is no file")
    known = timm.list_models
    names = set(fnmatch.filter(filter(_ours, known()), arguments.names))

    def list_models(*patterns: Any, module: Any = "", **choices: Any) -> list[str]:
        return [name for name in known(*patterns, **choices) if name.split(".")[0] in names]

    timm.list_models = list_models
    report = Report()
    status = pytest.main(
        [str(tests), "-q", "-p", "no:cacheprovider", "--tb=line", "-W", "ignore", *options], plugins=[report]
    )
    print(f"\ntimm {timm.__version__}, {len(names)} networks\n\n{report.table()}")
    sys.exit(status)


if __name__ == "__main__":
    main()
