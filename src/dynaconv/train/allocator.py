"""Setting of the C library's memory allocator for training on the CPU."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of glibc's ``mallopt``, from its malloc.h."""


def keep_freed_memory() -> None:
    """Let the process keep memory that it frees, for its next allocations.

    By default glibc returns large blocks to the system when they are freed. Each training step then takes the pages of
    its feature maps from the system again, which costs up to a fifth of the step (`benchmarks/training.py
    --return-memory`). Does nothing where the C library has no ``mallopt``.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
