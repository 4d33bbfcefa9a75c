"""The setting of the memory allocator."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from dynaconv.train.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(30):
    torch.zeros(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.zeros(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is a function of glibc")
def test_steps_reuse_memory_instead_of_taking_it_from_the_system() -> None:
    def page_faults(mode: str) -> int:
        return int(subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, check=True).stdout)

    # Ten tensors of 64 MiB have 163840 pages of 4 KiB; where pages are larger, no mode has as many faults.
    if (returned := page_faults("return")) < 100000:
        pytest.skip(f"{returned} page faults: the system has huge pages")
    assert page_faults("keep") < 20000
