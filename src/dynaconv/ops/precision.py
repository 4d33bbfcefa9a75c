"""Full precision inside a region of mixed precision."""

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off inside the block, where it is on; for small products whose errors would scale channels."""
    return torch.autocast(device.type, enabled=False) if autocasts(device) else nullcontext()


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for a device."""
    # It knows no meta device and raises when asked about it.
    return device.type != "meta" and torch.is_autocast_enabled(device.type)
