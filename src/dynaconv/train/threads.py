"""Chooses the number of threads of a training."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from joblib import cpu_count


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Run the block with this number of torch's threads; None leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def limit_threads() -> None:
    """Lower torch's number of threads to the cores that this process may use, unless OMP_NUM_THREADS is set.

    torch knows the CPU affinity, but not the CPU limit of a control group, as in a container.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), cpu_count(only_physical_cores=True)))


def divide_threads(processes: int) -> None:
    """Divide torch's threads among the processes that Lightning starts on this machine, unless OMP_NUM_THREADS is set.

    Lightning would divide all processors, whatever torch's number is.
    """
    if processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(torch.get_num_threads() // processes, 1))
        os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
