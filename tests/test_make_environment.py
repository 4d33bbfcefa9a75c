"""`make env` tells of what pip downloads."""

import runpy
from pathlib import Path

import pytest

megabytes = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "make_environment.py"))["megabytes"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("  Downloading torch-2.14.1-cp311-manylinux_2_28_x86_64.whl (880.5 MB)", ("torch-2.14.1", 880.5)),
        ("Using cached https://files/x/mpmath-1.3.0-py3-none-any.whl (536 kB)", ("mpmath-1.3.0", 0.536)),
        ("Downloading torch-2.14.1-cp311-manylinux_2_28_x86_64.whl.metadata (30 kB)", None),
        ("Collecting torch", None),
    ],
)
def test_a_line_of_pip_gives_file_and_size(line: str, found: tuple[str, float] | None) -> None:
    if found is None:
        assert megabytes(line) is None
    else:
        name, size = megabytes(line)
        assert name.startswith(found[0])
        assert size == pytest.approx(found[1])


def test_a_local_wheel_gives_its_size(tmp_path: Path) -> None:
    wheel = tmp_path / "six-1.17.0-py2.py3-none-any.whl"
    wheel.write_bytes(bytes(2_000_000))
    assert megabytes(f"Processing {wheel} (from scipy)") == (wheel.name, 2.0)
