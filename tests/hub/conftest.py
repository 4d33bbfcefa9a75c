"""A trained network, and a Hub that nobody else sees."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from dynaconv.hub import DynaconvModel
from tests.hub.fake_hub import FakeHub
from tests.hub.helpers import make_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's folder."""
    folder = tmp_path_factory.mktemp("runs") / "pets"
    make_run(folder)
    return folder


@pytest.fixture
def model(run: Path) -> DynaconvModel:
    """The run's network."""
    return DynaconvModel.from_run(run)


@pytest.fixture(scope="session")
def saved(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the run's network was saved to; not to be changed."""
    folder = tmp_path_factory.mktemp("saved") / "pets"
    DynaconvModel.from_run(run).save_pretrained(folder)
    return folder


@pytest.fixture
def known_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting multiply-adds is slow, and tested with the card."""
    monkeypatch.setattr("dynaconv.hub.card.measure_costs", lambda *_: [])


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """An empty Hub with an empty cache, which every request goes to."""
    with FakeHub().serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub
