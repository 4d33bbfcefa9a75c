"""The cache of banks: whole or absent, checked, bounded."""

import os
import threading
import time
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from dynaconv.train.data import bank_cache
from dynaconv.train.data.bank_cache import Bank, cache_folder, cached_bank

pytestmark = pytest.mark.usefixtures("own_cache")


class Maker:
    def __init__(self, size: int = 1000, wait: float = 0.0, seed: int | None = None) -> None:
        self.calls, self.size, self.wait, self.seed = 0, size, wait, seed

    def __call__(self) -> Bank:
        self.calls += 1
        time.sleep(self.wait)
        images = torch.arange(self.size).to(torch.uint8)
        if self.seed is not None:
            images = torch.randint(256, (self.size,), generator=torch.Generator().manual_seed(self.seed)).byte()
        return Bank(images=images, facts={"names": ["é", "一"], "calls": self.calls})


def files() -> list[Path]:
    return sorted((cache_folder() / "banks").rglob("output.pkl"))


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
    assert not files()
    make = Maker()
    cached_bank("x", {}, make)
    assert make.calls == 1


def test_after_a_write_that_fails_the_bank_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(value: object, file: BinaryIO, compress: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    make = Maker()
    with monkeypatch.context() as full:
        full.setattr("joblib.numpy_pickle.dump", fail)
        assert len(cached_bank("x", {}, make).images) == 1000
    assert not files()
    for _ in range(2):
        assert len(cached_bank("x", {}, make).images) == 1000
    assert make.calls == 2


def test_two_that_ask_at_once_make_it_once() -> None:
    make = Maker(wait=0.3)
    threads = [threading.Thread(target=cached_bank, args=("x", {}, make)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert make.calls == 1


def test_the_banks_used_least_recently_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_cache, "MOST_BYTES", 6000)
    makers = [Maker(2000, seed=seed) for seed in range(3)]
    for make, age in zip(makers, (300, 200, 0), strict=True):
        cached_bank("x", {"seed": make.seed}, make)
        (path,) = (path for path in files() if time.time() - path.stat().st_atime < 100)
        os.utime(path, (time.time() - age,) * 2)
    assert len(files()) == 2
    for make in makers[::-1]:
        cached_bank("x", {"seed": make.seed}, make)
    assert [make.calls for make in makers] == [2, 1, 1]


def test_without_a_cache_the_bank_is_made_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    make = Maker()
    for _ in range(2):
        assert len(cached_bank("x", {}, make).images) == 1000
    assert make.calls == 2
