"""The cache of banks: whole or absent, checked, bounded."""

import os
import threading
import time
from pathlib import Path

import pytest
import torch

from dynaconv.train.data import bank_cache
from dynaconv.train.data.bank_cache import Bank, cache_folder, cached_bank

pytestmark = pytest.mark.usefixtures("own_cache")


class Maker:
    def __init__(self, size: int = 1000, wait: float = 0.0) -> None:
        self.calls, self.size, self.wait = 0, size, wait

    def __call__(self) -> Bank:
        self.calls += 1
        time.sleep(self.wait)
        return Bank(images=torch.arange(self.size).to(torch.uint8), facts={"names": ["é", "一"], "calls": self.calls})


def files() -> list[Path]:
    return sorted((cache_folder() / "banks").glob("*.safetensors"))


def test_a_bank_is_made_once_for_a_key() -> None:
    make = Maker()
    first, again = (cached_bank("x", {"side": 3}, make) for _ in range(2))
    assert make.calls == 1
    assert torch.equal(first.images, again.images)
    assert again.facts == first.facts == {"names": ["é", "一"], "calls": 1}
    cached_bank("x", {"side": 4}, make)
    assert make.calls == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text"])
def test_a_damaged_file_is_made_again(damage: str) -> None:
    make = Maker()
    bank = cached_bank("x", {}, make)
    (path,) = files()
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes({"flip": bytes(raw), "cut": bytes(raw[:-10]), "empty": b"", "text": b"no bank at all"}[damage])
    again = cached_bank("x", {}, make)
    assert make.calls == 2
    assert torch.equal(again.images, bank.images)
    cached_bank("x", {}, make)
    assert make.calls == 2


def test_a_bank_whose_making_fails_leaves_nothing() -> None:
    def fail() -> Bank:
        raise RuntimeError("no fonts")

    with pytest.raises(RuntimeError, match="no fonts"):
        cached_bank("x", {}, fail)
    assert not [path for path in (cache_folder() / "banks").iterdir() if path.suffix != ".lock"]
    make = Maker()
    cached_bank("x", {}, make)
    assert make.calls == 1


def test_a_write_that_fails_leaves_no_part_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensors: object, path: str, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bank_cache, "save_file", fail)
    make = Maker()
    assert len(cached_bank("x", {}, make).images) == 1000
    assert not [path for path in (cache_folder() / "banks").iterdir() if path.suffix != ".lock"]


def test_two_that_ask_at_once_make_it_once() -> None:
    make = Maker(wait=0.3)
    threads = [threading.Thread(target=cached_bank, args=("x", {}, make)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert make.calls == 1


def test_the_banks_used_least_recently_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_cache, "MOST_BYTES", 5000)
    for number, age in ((0, 300), (1, 200)):
        cached_bank(f"n{number}", {}, Maker(2000))
        os.utime(files()[-1], (time.time() - age,) * 2)
    # Used again, so it is not the oldest any more.
    cached_bank("n0", {}, Maker(2000))
    cached_bank("n2", {}, Maker(2000))
    assert [path.name[:2] for path in files()] == ["n0", "n2"]
    cached_bank("n3", {}, Maker(6000))
    assert [path.name[:2] for path in files()] == ["n0", "n2"]


def test_what_a_killed_process_left_is_removed() -> None:
    folder = cache_folder() / "banks"
    folder.mkdir(parents=True)
    old, new = folder / ".x.safetensors.12.tmp", folder / ".y.safetensors.13.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    cached_bank("x", {}, Maker())
    assert not old.exists()
    assert new.exists()


def test_without_a_cache_the_bank_is_made_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    make = Maker()
    for _ in range(2):
        assert len(cached_bank("x", {}, make).images) == 1000
    assert make.calls == 2
