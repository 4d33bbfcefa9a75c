"""What the tests of training share."""

from pathlib import Path
from typing import Any

import pytest

from dynaconv.train.run import fit
from tests.train.helpers import tiny_config
from tests.train.test_kill import left_by


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the data sets make away from the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run of `tiny_config` leaves that nothing befell."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    fit(tiny_config(), out=folder)
    return left_by(folder)
