"""Full precision inside an autocast region."""

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Disable autocast inside the block, for small products whose rounding errors would scale whole channels."""
    return torch.autocast(device.type, enabled=False) if autocasts(device) else nullcontext()


def autocasts(device: torch.device) -> bool:
    """Whether autocast is enabled for a device."""
    # `torch.is_autocast_enabled` raises for the meta device.
    return device.type != "meta" and torch.is_autocast_enabled(device.type)
