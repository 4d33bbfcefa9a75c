"""Full precision inside a region of mixed precision."""

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off inside the block, where it is on; for small products whose errors would scale channels."""
    # Autocast knows no meta device and raises when asked about it.
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
