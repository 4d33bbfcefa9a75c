"""Random numbers that are a function of the run's seed, the epoch and the image, and of nothing else.

How many processes load the images, and which images share a batch, then changes nothing, and a run that starts again
in the middle of an epoch draws what it would have drawn. The generator is splitmix64: a counter, scrambled. Integers
wrap around in ``int64``, which is arithmetic modulo 2^64.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

_STEP = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(value: int) -> int:
    """The ``int64`` with the low 64 bits of ``value``."""
    return (value + 2**63) % 2**64 - 2**63


def _shifted(values: Tensor, bits: int) -> Tensor:
    # A right shift of int64 copies the sign.
    shifted: Tensor = (values >> bits) & (2 ** (64 - bits) - 1)
    return shifted


def scramble(values: Tensor) -> Tensor:
    """Map ``int64`` to ``int64``, one to one, so that neighbours have nothing in common (splitmix64's output)."""
    values = values + _signed(_STEP)
    values = (values ^ _shifted(values, 30)) * _signed(_FIRST)
    values = (values ^ _shifted(values, 27)) * _signed(_SECOND)
    return values ^ _shifted(values, 31)


def image_keys(seed: int, epoch: int, indices: Sequence[int] | Tensor) -> Tensor:
    """Return one key for each image.

    Args:
        seed: The run's, in [0, 2^32).
        epoch: From 0.
        indices: Positions of the images in the training set, ``(B,)``.

    Returns:
        ``int64``, ``(B,)``.
    """
    run = scramble(torch.tensor(seed))
    return scramble(scramble(run + epoch) + torch.as_tensor(indices, dtype=torch.int64))


def uniform(keys: Tensor, count: int) -> Tensor:
    """Return ``count`` numbers in [0, 1) for each key; a larger count leaves the first ones as they are.

    Args:
        keys: ``int64``, ``(B,)``.
        count: Numbers an image.

    Returns:
        ``float32``, ``(count, B)``, multiples of 2^-24.
    """
    streams = torch.arange(1, count + 1) * _signed(_STEP)
    return _shifted(scramble(keys + streams[:, None]), 40).float() * 2.0**-24


def fresh_keys(count: int) -> Tensor:
    """Draw keys from torch's global generator, for images without a number; ``int64``, ``(count,)``."""
    return torch.randint(2**62, (count,))


@contextmanager
def generators_seeded(key: int) -> Iterator[None]:
    """Seed the global generators of Python, numpy and torch's CPU inside the block; then they are as before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(key)
    np.random.seed(key % 2**32)
    # Not `torch.manual_seed`, which would seed the accelerators too.
    torch.default_generator.manual_seed(key)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
