"""Hides messages of Lightning that need no action from the user; those about the user's options stay."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from dynaconv.log_levels import raised_log_levels

_MESSAGES = (
    # The number of loader processes is the user's choice, or follows from the number of cores.
    r".*does not have many workers.*",
    # About the steps between two logged values; the metrics table has one row per epoch.
    r".*The number of training batches.*",
    # `CombinedLoader` uses a pytree API that newer releases of torch deprecate.
    r".*LeafSpec.*is deprecated.*",
    # The moving average of the weights is always in eval mode.
    r".*module\(s\) in eval mode at the start of training.*",
    # The loader of a run that is resumed inside an epoch starts at the right image by itself.
    r".*your dataloader is not resumable.*",
    # `ShardStream` divides its images among the workers itself.
    r".*Your `IterableDataset` has `__len__` defined.*",
    # The trace of a study is not recorded if `dynaconv train --resume` continues one of its runs.
    r".*callbacks used to create the checkpoint need to be provided.*",
    # The gradient of a 1x1 kernel may have other strides along its axes of length one.
    r".*Grad strides do not match bucket view strides.*",
)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's info messages and the warnings that need no action from the user."""
    with raised_log_levels("lightning.pytorch", "lightning.fabric", level=logging.WARNING), warnings.catch_warnings():
        for message in _MESSAGES:
            warnings.filterwarnings("ignore", message=message)
        yield
