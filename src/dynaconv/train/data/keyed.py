"""Random numbers that depend only on the run's seed, the epoch and the image.

They do not depend on the number of loader processes or on the batch of an image, and a run that is resumed inside an
epoch draws the same numbers as an uninterrupted one. The generator is splitmix64, a hash of a counter. ``int64`` wraps
around on overflow, so its arithmetic is modulo 2^64.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

_INCREMENT = 0x9E3779B97F4A7C15
_FACTOR_1, _FACTOR_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(value: int) -> int:
    """Return the ``int64`` with the low 64 bits of ``value``."""
    return (value + 2**63) % 2**64 - 2**63


def _shift_unsigned(values: Tensor, bits: int) -> Tensor:
    # A right shift of int64 copies the sign bit; the mask clears the copies.
    shifted: Tensor = (values >> bits) & (2 ** (64 - bits) - 1)
    return shifted


def scramble(values: Tensor) -> Tensor:
    """Map ``int64`` to ``int64``, one to one, by splitmix64's output function, which decorrelates neighbours."""
    values = values + _signed(_INCREMENT)
    values = (values ^ _shift_unsigned(values, 30)) * _signed(_FACTOR_1)
    values = (values ^ _shift_unsigned(values, 27)) * _signed(_FACTOR_2)
    return values ^ _shift_unsigned(values, 31)


def image_keys(seed: int, epoch: int, indices: Sequence[int] | Tensor) -> Tensor:
    """Return a random key for each image.

    Args:
        seed: The run's seed, in [0, 2^32).
        epoch: From 0.
        indices: Positions of the images in the training set, ``(B,)``.

    Returns:
        ``int64``, ``(B,)``.
    """
    run = scramble(torch.tensor(seed))
    return scramble(scramble(run + epoch) + torch.as_tensor(indices, dtype=torch.int64))


def uniform(keys: Tensor, count: int) -> Tensor:
    """Return ``count`` uniform numbers in [0, 1) for each key; a larger count does not change the first ones.

    Args:
        keys: ``int64``, ``(B,)``.
        count: Numbers per key.

    Returns:
        ``float32``, ``(count, B)``, multiples of 2^-24.
    """
    streams = torch.arange(1, count + 1) * _signed(_INCREMENT)
    return _shift_unsigned(scramble(keys + streams[:, None]), 40).float() * 2.0**-24


def fresh_keys(count: int) -> Tensor:
    """Draw keys from torch's global generator, for images without an index; ``int64``, ``(count,)``."""
    return torch.randint(2**62, (count,))


@contextmanager
def generators_seeded(key: int) -> Iterator[None]:
    """Seed the global generators of Python, numpy and torch's CPU inside the block, and restore them after it."""
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
