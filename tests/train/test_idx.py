"""Reading the IDX format."""

import gzip
import struct
from pathlib import Path

import pytest
import torch

from dynaconv.errors import DataError
from dynaconv.train.data.embedded import read_idx
from tests.messages import refuses


def idx_bytes(tensor: torch.Tensor) -> bytes:
    header = struct.pack(f">HBB{tensor.dim()}I", 0, 8, tensor.dim(), *tensor.shape)
    return header + tensor.numpy().tobytes()


@pytest.mark.parametrize("shape", [(7,), (2, 3, 5)])
@pytest.mark.parametrize("compressed", [True, False])
def test_reads_what_was_written(tmp_path: Path, shape: tuple[int, ...], compressed: bool) -> None:
    wanted = torch.randint(0, 256, shape, dtype=torch.uint8)
    raw = idx_bytes(wanted)
    path = tmp_path / "images-idx"
    path.write_bytes(gzip.compress(raw) if compressed else raw)
    torch.testing.assert_close(read_idx(path), wanted)


def test_the_result_can_be_written_to(tmp_path: Path) -> None:
    path = tmp_path / "labels-idx"
    path.write_bytes(idx_bytes(torch.arange(4, dtype=torch.uint8)))
    read_idx(path).add_(1)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x89PNG....",
        struct.pack(">HBB", 0, 0x0D, 1) + bytes(4),
        struct.pack(">HBB", 0, 8, 3) + bytes(5),
        struct.pack(">HBBI", 0, 8, 1, 10) + bytes(9),
        gzip.compress(bytes(100))[:20],
    ],
    # Named here: by default the bytes would be the name, and gzip writes the time into them.
    ids=["empty", "PNG", "floats", "short header", "short data", "short gzip"],
)
def test_a_damaged_file_is_named(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "broken-idx"
    path.write_bytes(raw)
    with refuses(DataError, str(path)):
        read_idx(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with refuses(DataError, "nothing-here"):
        read_idx(tmp_path / "nothing-here")
