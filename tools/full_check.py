"""Run every check of the Makefile, those that CI leaves out too, and write one line about each to docs/results/full.md.

    python3 tools/full_check.py
    python3 tools/full_check.py --python python3.13 litert sanitize

Each check's whole output goes to runs/full/. The exit code is 1 if a check failed. `mobile` and `litert` install into
environments of their own.
"""

import argparse
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results" / "full.md"
ENVIRONMENTS = {"mobile": ".venv-mobile", "litert": ".venv-litert"}
CHECKS = ("test", "slow", "docs", "sanitize", "explorer", "packages", *ENVIRONMENTS)
_SUMMARY = re.compile(r"^=* ?((?:\d+ \w+,? ?)+ in [\d.]+s.*?) ?=*$|^(every package .*|.*wheel.* ok.*)$")
_ROW = re.compile(r"^\| (\w+) \| Python")


def processor() -> str:
    """Model name of the processor and its widest vector instructions."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*: (.*)", info)
    return (name.group(1) if name else platform.processor()) + (", AVX-512" if "avx512f" in info else "")


def version(python: Path) -> str:
    """Versions of Python and torch in an environment."""
    code = "import platform, torch; print(f'Python {platform.python_version()}, torch {torch.__version__}')"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "not installed"


def run(check: str, python: str, folder: Path, environment: str) -> str:
    """Run one target of the Makefile; its row of the table."""
    log, start = folder / f"{check}.log", time.perf_counter()
    with log.open("w") as file:
        command = ["make", check, f"PYTHON={python}", f"VENV={environment}"]
        code = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    minutes = (time.perf_counter() - start) / 60
    found = [
        match.group(1) or match.group(2) for line in log.read_text().splitlines() if (match := _SUMMARY.match(line))
    ]
    result = "; ".join(found) or "no summary"
    versions = version(ROOT / environment / "bin" / "python")
    return f"| {check} | {versions} | {'passed' if code == 0 else 'FAILED'} | {result} | {minutes:.1f} |"


def main() -> int:
    """Run the checks named, all by default, one after another; rows of other checks stay on the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", choices=[*CHECKS, []], metavar="CHECK", help="a target of the Makefile")
    parser.add_argument("--python", default="python3", help="interpreter for new environments")
    args = parser.parse_args()
    folder = ROOT / "runs" / "full"
    folder.mkdir(parents=True, exist_ok=True)
    rows = {}
    if PAGE.exists():
        rows = {match.group(1): line for line in PAGE.read_text().splitlines() if (match := _ROW.match(line))}
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    for check in args.checks or CHECKS:
        row = run(check, args.python, folder, ENVIRONMENTS.get(check, ".venv"))
        rows[check] = f"{row} {time.strftime('%Y-%m-%d')}, {commit.stdout.strip()} |"
        print(rows[check], flush=True)
        lines = [
            "# Every check before a release",
            "",
            "Report. Written by `make full` (`tools/full_check.py`), one row per target of the Makefile.",
            "",
            "| target | versions | result | summary | minutes | date, commit |",
            "| --- | --- | --- | --- | ---: | --- |",
            *rows.values(),
            "",
            f"Machine: {processor()}, {platform.system()} {platform.machine()}.",
        ]
        PAGE.write_text("\n".join(lines) + "\n")
    return int(any("| FAILED |" in rows[check] for check in args.checks or CHECKS))


if __name__ == "__main__":
    sys.exit(main())
