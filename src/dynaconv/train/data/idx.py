"""The IDX format of MNIST and its relatives: a magic number, big-endian dimensions, then raw bytes."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from dynaconv.errors import DataError

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path) -> Tensor:
    """Read one IDX file of unsigned bytes, gzip-compressed or plain.

    Args:
        path: The file; compression is recognised by its first two bytes, not by its name.

    Returns:
        A ``uint8`` tensor with the dimensions that the file's header states.

    Raises:
        DataError: The file is missing, damaged or truncated, or has another element type.
    """
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"cannot read the IDX file {path}: {reason}; fetch the file again.") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != _UNSIGNED_BYTE:
        raise DataError(
            f"{path} is not an IDX file of unsigned bytes: it starts with {raw[:4].hex() or 'nothing'}, "
            f"but an IDX file starts with 0000 08 and the number of dimensions."
        )
    num_dims = raw[3]
    header = 4 + 4 * num_dims
    if len(raw) < header:
        raise DataError(f"the IDX file {path} ends inside its header of {header} bytes; fetch the file again.")
    shape = struct.unpack(f">{num_dims}I", raw[4:header])
    if len(raw) - header != math.prod(shape):
        raise DataError(
            f"the IDX file {path} states the shape {shape} of {math.prod(shape)} bytes, but has {len(raw) - header}; "
            f"fetch the file again."
        )
    return torch.frombuffer(bytearray(raw[header:]), dtype=torch.uint8).reshape(shape)
