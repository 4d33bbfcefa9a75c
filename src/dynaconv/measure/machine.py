"""The machine that measurements are taken on."""

import platform
import re
from pathlib import Path


def processor_model() -> str:
    """Return the name of the processor's model or, where the system does not tell, its architecture."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.machine()
