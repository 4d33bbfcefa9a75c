"""Install into an environment with pip, telling of each large download, the time and the size: `make env`.

    python tools/make_environment.py .venv --constraint constraints.txt --editable '.[dev]'

What pip prints goes to install.log in the environment. The exit code is pip's.
"""

import re
import subprocess
import sys
import time
from pathlib import Path

_DOWNLOAD = re.compile(r"(?:Downloading|Using cached) (?:\S*/)?(\S+?)(?:\.metadata)? \(([\d.]+) ([kMG]?B)\)")
_LOCAL = re.compile(r"Processing (\S+\.whl)")
_UNITS = {"B": 1e-6, "kB": 1e-3, "MB": 1.0, "GB": 1e3}
LARGE_MB = 20.0


def megabytes(line: str) -> tuple[str, float] | None:
    """Return file and size in MB of a line of pip about a download or a local wheel, None for other lines."""
    if (local := _LOCAL.match(line)) and (wheel := Path(local.group(1))).is_file():
        return wheel.name, wheel.stat().st_size / 1e6
    found = _DOWNLOAD.search(line)
    if not found or ".metadata (" in line:
        return None
    return found.group(1), float(found.group(2)) * _UNITS[found.group(3)]


def size(folder: Path) -> float:
    """Return the size of all files in a folder in MB."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main(environment: Path, arguments: list[str]) -> int:
    """Run pip and report."""
    start, total, log = time.monotonic(), 0.0, environment / "install.log"

    def tell(text: str) -> None:
        print(f"[{time.monotonic() - start:4.0f} s] {text}", flush=True)

    tell(f"installing into {environment}; all that pip prints is in {log}")
    command = [str(environment / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip,
    ):
        assert pip.stdout
        for line in pip.stdout:
            file.write(line)
            file.flush()
            if (found := megabytes(line)) is not None:
                total += found[1]
                if found[1] >= LARGE_MB:
                    tell(f"{found[0]}, {found[1]:,.0f} MB, {total:,.0f} MB so far")
            elif line.startswith("Installing collected packages"):
                tell(f"{total:,.0f} MB are here, {line.count(',') + 1} packages are being installed")
            elif line.startswith("ERROR"):
                print(line, end="", flush=True)
    if pip.returncode:
        tell(f"pip failed with exit code {pip.returncode}; see {log}")
    else:
        tell(f"done, {environment} takes {size(environment):,.0f} MB")
    return pip.returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
