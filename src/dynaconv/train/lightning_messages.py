"""Keeps what Lightning says about itself off the console; what it says about the user's options stays."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from dynaconv.log_levels import quiet_loggers

_MESSAGES = (
    # The number of loader processes is the user's choice, or follows from the number of cores.
    r".*does not have many workers.*",
    # The steps between two logged values; the table has one row an epoch.
    r".*The number of training batches.*",
    # A resumed run goes on in its own folder.
    r".*Checkpoint directory .* exists and is not empty.*",
    # `CombinedLoader` asks torch's pytree in a way that newer releases of torch deprecate.
    r".*LeafSpec.*is deprecated.*",
    # The moving average of the weights never leaves eval mode.
    r".*module\(s\) in eval mode at the start of training.*",
    # The loader of a run that goes on inside an epoch starts there by itself.
    r".*your dataloader is not resumable.*",
    # Runs of earlier versions were saved by another callback.
    r".*callbacks used to create the checkpoint need to be provided.*",
    # No validation was due in this epoch.
    r".*could not find the monitored key.*",
    # The streams of shards divide their images over the workers themselves.
    r".*Your `IterableDataset` has `__len__` defined.*",
    # The gradient of a 1x1 kernel may come in another order of its axes of length one.
    r".*Grad strides do not match bucket view strides.*",
)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's information messages and the warnings that need nothing from the user."""
    with quiet_loggers("lightning.pytorch", "lightning.fabric", level=logging.WARNING), warnings.catch_warnings():
        for message in _MESSAGES:
            warnings.filterwarnings("ignore", message=message)
        yield
