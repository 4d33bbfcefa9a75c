"""Uploading to a Hub and loading from it, with huggingface_hub's own requests to a server on this machine."""

import json
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars

from dynaconv.errors import CheckpointError
from dynaconv.hub import DynaconvModel
from tests.hub.fake_hub import TOKEN, FakeHub
from tests.hub.helpers import images
from tests.messages import refuses

disable_progress_bars()


pytestmark = pytest.mark.usefixtures("known_costs")


def test_a_pushed_network_comes_back(model: DynaconvModel, hub: FakeHub) -> None:
    address = model.push_to_hub("pets", token=TOKEN, commit_message="Pets", model_card_kwargs={"notes": "For pets."})
    assert address.startswith(f"{hub.endpoint}/ada/pets/commit/")
    assert hub.commits == ["Pets"]
    files = hub.repositories["ada/pets"]
    assert set(files) == {"README.md", "config.json", "model.safetensors"}
    assert json.loads(files["config.json"])["architecture"] == "dcd_mobilenetv2_035"
    card = files["README.md"].decode()
    assert hub.pages[0] == card
    assert 'DynaconvModel.from_pretrained("ada/pets")' in card
    assert "For pets." in card

    again = DynaconvModel.from_pretrained("ada/pets")
    x = images(1, 20)
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    assert again.description == model.description
    assert not again.training


def test_timm_loads_from_the_hub(model: DynaconvModel, saved: Path, hub: FakeHub) -> None:
    hub.repositories["ada/pets"] = {path.name: path.read_bytes() for path in saved.iterdir()}
    network = timm.create_model("hf-hub:ada/pets", pretrained=True).eval()
    x = images(1, 20)
    torch.testing.assert_close(network(x), model(x), rtol=0, atol=0)


def test_saving_can_push_too(model: DynaconvModel, hub: FakeHub, tmp_path: Path) -> None:
    address = model.save_pretrained(tmp_path / "pets", repo_id="ada/pets", push_to_hub=True, token=TOKEN)
    assert address is not None
    assert set(hub.repositories["ada/pets"]) == {path.name for path in (tmp_path / "pets").iterdir()}


def test_a_card_edited_on_the_hub_stays(model: DynaconvModel, hub: FakeHub) -> None:
    hub.repositories["ada/pets"] = {"README.md": b"# Mine"}
    model.push_to_hub("ada/pets", token=TOKEN)
    assert hub.repositories["ada/pets"]["README.md"] == b"# Mine"
    assert "config.json" in hub.repositories["ada/pets"]
    hub.repositories["ada/pets"]["README.md"] = model.generate_model_card().content.encode()
    model.push_to_hub("ada/pets", token=TOKEN, model_card_kwargs={"notes": "New."})
    assert b"New." in hub.repositories["ada/pets"]["README.md"]


def test_a_network_that_cannot_be_rebuilt_creates_no_repository(model: DynaconvModel, hub: FakeHub) -> None:
    model.network.bn1.eps = 10.0
    with refuses(CheckpointError):
        model.push_to_hub("ada/pets", token=TOKEN)
    assert hub.repositories == {}


def test_what_was_fetched_once_loads_offline(
    saved: Path, hub: FakeHub, model: DynaconvModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path.name: path.read_bytes() for path in saved.iterdir()}
    hub.repositories = {"ada/pets": files, "ada/other": files}
    DynaconvModel.from_pretrained("ada/pets")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again = DynaconvModel.from_pretrained("ada/pets")
    assert again.description == model.description
    with refuses(CheckpointError, "ada/other"):
        DynaconvModel.from_pretrained("ada/other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with refuses(CheckpointError, "local_files_only"):
        DynaconvModel.from_pretrained("ada/other", local_files_only=True)


def test_pickled_weights_are_not_fetched(saved: Path, hub: FakeHub) -> None:
    files = {"config.json": (saved / "config.json").read_bytes(), "pytorch_model.bin": b"a pickle"}
    hub.repositories = {"ada/pets": files}
    with refuses(CheckpointError, "model.safetensors"):
        DynaconvModel.from_pretrained("ada/pets")


def test_what_the_hub_lacks_is_named(hub: FakeHub, saved: Path) -> None:
    with refuses(CheckpointError, "ada/none"):
        DynaconvModel.from_pretrained("ada/none")
    hub.repositories = {"ada/pets": {path.name: path.read_bytes() for path in saved.iterdir()}}
    with refuses(CheckpointError, "v9"):
        DynaconvModel.from_pretrained("ada/pets", revision="v9")
    with refuses(CheckpointError):
        DynaconvModel.from_pretrained("-bad name-")


def test_a_hub_that_cannot_be_reached(model: DynaconvModel, monkeypatch: pytest.MonkeyPatch) -> None:
    # The client waits between its attempts.
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    nowhere = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere + "/{repo_id}/resolve/{revision}/{filename}")
    with refuses(CheckpointError, "127.0.0.1:9"):
        DynaconvModel.from_pretrained("ada/pets")
    with refuses(CheckpointError, "127.0.0.1:9"):
        model.push_to_hub("pets", token=TOKEN)


def test_who_may_not_push_is_told_so(model: DynaconvModel, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with refuses(CheckpointError, "hf auth login"):
        model.push_to_hub("pets")
    with refuses(CheckpointError, "401"):
        model.push_to_hub("ada/pets", token="hf_wrong")
    with refuses(CheckpointError, "ada/pets/cats"):
        model.push_to_hub("ada/pets/cats", token=TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with refuses(CheckpointError, "HF_HUB_OFFLINE"):
        model.push_to_hub("ada/pets", token=TOKEN)
    assert hub.repositories == {}
