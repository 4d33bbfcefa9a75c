"""Fixed conditions for every test."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import nn

import dynaconv.models  # noqa: F401  # registers the networks with timm
from dynaconv.native import toolchain
from dynaconv.ops.eager import enable_compiled
from tests.toy import ToyDynamic

pytest_plugins = ["tests.messages"]

# No deadline: the first call of an operator on a busy machine takes long. Examples are derived from the test's name,
# so that a failure in one run is a failure in every run.
settings.register_profile(
    "dynaconv",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("dynaconv")
torch.set_num_threads(1)
# Tests with a cache of their own for data would compile the kernels once more.
os.environ.setdefault("DYNACONV_CACHE", str(toolchain._cache()))
# A shell starts what runs in the background with Ctrl+C ignored, and nohup with SIGHUP ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _fixed_numerics() -> Iterator[None]:
    """Seed the generators and fill uninitialised memory with NaN, so that a read of it cannot go unnoticed."""
    torch.manual_seed(0)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    enable_compiled(False)


@pytest.fixture
def own_environment() -> Iterator[None]:
    """Give the environment back: a run tells its further processes its seed and folder through it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def toy() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(ToyDynamic(4), nn.ReLU(), ToyDynamic(4))
