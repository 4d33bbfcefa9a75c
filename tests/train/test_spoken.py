"""Spoken words: spectra, their augmentation, held-out voices, and the synthesizers where they are installed."""

import io
import shutil
import subprocess
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynaconv.errors import DataError
from dynaconv.train.data import speech, spoken
from dynaconv.train.data.keyed import image_keys
from dynaconv.train.data.sources import load_source
from dynaconv.train.data.speech import BANDS, FRAMES, RATE, Take, Voice, log_mel, mel_filters, read_wave, speak, trimmed
from dynaconv.train.data.spoken import TAKES, WORDS, SpokenAugment, voices
from tests.messages import refuses, spelled

INSTALLED = all(shutil.which(program) for program in ("espeak-ng", "flite"))
PLAIN = {
    "size": 40,
    "tempo": (1.0, 1.0),
    "pitch": 0.0,
    "stretch": 1.0,
    "shift": 0.0,
    "gain": (0.0, 0.0),
    "tilt": 0.0,
    "noise": (-200.0, -200.0),
    "noise_tilt": 0.0,
    "flicker": 0.0,
}


pytestmark = pytest.mark.usefixtures("own_cache")


def plain(**changes: Any) -> SpokenAugment:
    """Nothing is changed but what is asked for."""
    return SpokenAugment(**{**PLAIN, **changes})


def keys(count: int = 100) -> torch.Tensor:
    return image_keys(0, 0, range(count))


def tone(frequency: float, seconds: float = 0.5) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.sin(2 * np.pi * frequency * np.arange(int(seconds * RATE)) / RATE).astype(np.float32) / 2


def test_mel_bands_are_triangles_that_rise_with_frequency() -> None:
    filters = mel_filters()
    assert filters.shape == (BANDS, 257)
    assert np.allclose(filters.sum(1), 1)
    centres = filters @ np.arange(257) * RATE / 512
    assert (np.diff(centres) > 0).all()
    assert 60 < centres[0] < 140
    assert 6900 < centres[-1] < 7600
    # By the formula of the mel scale, the middle of the range in mel lies at 1.8 kHz.
    assert centres[BANDS // 2] == pytest.approx(1800, rel=0.05)


def test_a_tone_is_a_line_at_its_frequency() -> None:
    centres = mel_filters() @ np.arange(257) * RATE / 512
    for frequency in (300.0, 1000.0, 4000.0):
        picture = log_mel(tone(frequency))
        assert (picture.shape, picture.dtype) == ((BANDS, FRAMES), np.uint8)
        middle = picture[:, FRAMES // 2]
        assert abs(int(middle.argmax()) - int(np.abs(centres - frequency).argmin())) <= 1
        assert middle.max() >= 250
        # Half a second is 50 frames in the middle.
        first = int(np.flatnonzero(picture.max(0) > 200)[0])
        assert abs(first - (FRAMES - 50) // 2) <= 2


def test_a_spectrum_is_in_decibels_below_its_loudest_point() -> None:
    both = np.concatenate([tone(1000), tone(1000) / 100])
    picture = log_mel(both).astype(float)
    loud, faint = picture[:, 30].max(), picture[:, 90].max()
    assert loud - faint == pytest.approx(40 * 255 / 80, abs=3)
    assert np.array_equal(log_mel(tone(1000)), log_mel(tone(1000) / 8))


def test_long_and_empty_sounds_fit_too() -> None:
    assert log_mel(tone(500, 3.0)).shape == (BANDS, FRAMES)
    assert not log_mel(np.zeros(0, dtype=np.float32)).any()


def test_silence_around_a_word_is_cut_off() -> None:
    silence = np.full(4000, 1e-4, dtype=np.float32)
    assert abs(len(trimmed(np.concatenate([silence, tone(500), silence]))) - RATE // 2) < 20
    assert len(trimmed(np.zeros(10, dtype=np.float32))) == 10


def wave_bytes(samples: np.ndarray[Any, Any], rate: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def test_sounds_are_resampled() -> None:
    seconds = np.arange(22_050) / 22_050
    got = read_wave(wave_bytes(np.sin(2 * np.pi * 440 * seconds) / 2, 22_050))
    assert len(got) == RATE
    wanted = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE) / 2
    assert np.abs(got - wanted)[200:-200].max() < 2e-3


def test_without_any_range_a_word_is_shown_as_it_is() -> None:
    images = torch.randint(0, 256, (3, 1, BANDS, FRAMES), dtype=torch.uint8)
    got = plain(seconds=1.28)(images, keys(3))
    assert got.shape == (3, 1, 40, 40)
    # Upside down: low frequencies lie at the bottom. A pixel is 3.2 frames; the middle of the third is between two.
    wanted = images.flip(2)[..., 7:9].float().mean(-1)
    assert float((got[..., 2].float() - wanted).abs().max()) <= 0.51


def spot(time: int = 64, band: int = 20, length: int = 20, height: int = 4) -> torch.Tensor:
    images = torch.zeros(100, 1, BANDS, FRAMES, dtype=torch.uint8)
    images[:, :, band - height // 2 : band + height // 2, time - length // 2 : time + length // 2] = 255
    return images


def span(images: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First lit place along an axis, and how many are lit."""
    lit = (images[:, 0] > 127).any(1 if axis == 1 else 2)
    return lit.float().argmax(1), lit.sum(1)


def test_tempo_pitch_and_shift_move_a_word() -> None:
    _, length = span(plain(seconds=1.28, tempo=(2.0, 2.0))(spot(), keys()), 1)
    _, usual = span(plain(seconds=1.28)(spot(), keys()), 1)
    assert (int(usual[0]), int(length[0])) == (6, 12)
    _, window = span(plain(seconds=0.64)(spot(), keys()), 1)
    assert int(window[0]) == 12
    first, _ = span(plain(seconds=1.28, shift=0.25)(spot(), keys()), 1)
    assert abs(int(first.min()) - 7) <= 1
    assert abs(int(first.max()) - 27) <= 1
    first, _ = span(plain(pitch=0.1)(spot(), keys()), 2)
    assert abs(int(first.min()) - 14) <= 1
    assert abs(int(first.max()) - 22) <= 1
    _, height = span(plain(stretch=2.0)(spot(height=8), keys()), 2)
    assert (int(height.min()), int(height.max())) == (4, 16)


def test_noise_adds_up_in_power() -> None:
    silent = torch.zeros(100, 1, BANDS, FRAMES, dtype=torch.uint8)
    got = plain(noise=(-40.0, -40.0))(silent, keys()).float()
    assert float(got.mean()) == pytest.approx(40 * 255 / 80, abs=1)
    # Equal powers are 3 dB more than one of them.
    level = torch.full_like(silent, 128)
    got = plain(noise=(-80 + 128 * 80 / 255,) * 2)(level, keys()).float()[..., 20, 20]
    assert float(got.mean() - 128) == pytest.approx(3.01 * 255 / 80, abs=0.6)
    got = plain(noise=(-60.0, -20.0), noise_tilt=15.0)(silent, keys()).float()
    tilt = got[:, 0, 0, 5] - got[:, 0, -1, 5]
    assert float(tilt.max()) == pytest.approx(30 * 255 / 80, rel=0.2)
    assert float(tilt.min()) == pytest.approx(-30 * 255 / 80, rel=0.2)
    got = plain(noise=(-40.0, -40.0), flicker=5.0)(silent, keys()).float()
    assert float(got.std()) == pytest.approx(5 * 255 / 80, rel=0.05)


def test_gain_and_tilt_change_the_loudness() -> None:
    level = torch.full((100, 1, BANDS, FRAMES), 200, dtype=torch.uint8)
    got = plain(gain=(-20.0, 0.0))(level, keys()).float()[:, 0, 20, 20]
    assert float(got.max()) == pytest.approx(200, abs=4)
    assert float(got.min()) == pytest.approx(200 - 20 * 255 / 80, abs=4)
    got = plain(tilt=10.0)(level, keys()).float()[:, 0, :, 20]
    assert float((got[:, 2] - got[:, -3]).abs().max()) == pytest.approx(20 * 255 / 80, rel=0.2)


def test_a_word_follows_from_its_own_key() -> None:
    images = torch.randint(0, 256, (11, 1, BANDS, FRAMES), dtype=torch.uint8)
    draw = SpokenAugment(size=40)
    whole = draw(images, keys(11))
    for rows in ([3], [10, 0, 7]):
        assert torch.equal(draw(images[rows], keys(11)[rows]), whole[rows])


def test_no_voice_is_on_both_sides() -> None:
    speakers = {role: {voice.name.split("+")[-1] for voice in voices(role)} for role in ("train", "val", "test")}
    assert {role: len(names) for role, names in speakers.items()} == {"train": 38, "val": 9, "test": 17}
    assert len(set.union(*speakers.values())) == 38 + 9 + 17
    assert {voice.program for voice in voices("test")} == {"espeak-ng", "flite"}
    assert len(set(WORDS)) == len(WORDS) == 80


@pytest.fixture
def silent_synthesizers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Banks of random pictures in place of spoken ones; how often one was made."""
    calls: list[int] = []

    def bank(speakers: Any, words: Any, takes: Any) -> Any:
        calls.append(len(speakers))
        shape = (len(speakers), len(takes), len(words), BANDS, FRAMES)
        return np.random.default_rng(len(speakers)).integers(0, 256, shape, dtype=np.uint8)

    monkeypatch.setattr(spoken, "spoken_bank", bank)
    monkeypatch.setattr(spoken, "program_version", lambda program: f"{program} 1.0")
    return calls


def test_the_source_has_a_class_for_each_word(silent_synthesizers: list[int]) -> None:
    source = load_source("spoken-words", options={"words": ["yes", "no", "maybe"], "distinct": 50})
    assert source.class_names == ("yes", "no", "maybe")
    assert source.train.bank.shape == (38 * len(TAKES) * 3, 1, BANDS, FRAMES)
    assert source.train.bank_targets.bincount().tolist() == [76] * 3
    original = np.random.default_rng(38).integers(0, 256, (38, 2, 3, BANDS, FRAMES), dtype=np.uint8)
    assert np.array_equal(source.train.bank[76 + 3, 0], original[1, 1, 1])
    assert source.validation.targets.bincount().tolist() == [18 * 38] * 3
    assert source.test.images.shape == (17 * 2 * 3 * 20, 1, 40, 40)
    assert (source.train.distinct, source.flip, source.image_size) == (50, False, 40)
    assert silent_synthesizers == [38, 9, 17]
    load_source("spoken-words", options={"words": ["yes", "no", "maybe"]})
    assert silent_synthesizers == [38, 9, 17]


@pytest.mark.parametrize(
    "options",
    [
        {"words": "yes"},
        {"words": ["yes", "--help"]},
        {"words": ["yes", 3]},
        {"words": ["yes"]},
        {"words": ["no", "no"]},
        {"voices": 3},
    ],
    ids=spelled,
)
def test_options_that_do_not_fit_are_named(options: dict[str, Any]) -> None:
    with refuses(DataError):
        load_source("spoken-words", options=options)


def test_a_missing_synthesizer_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with refuses(DataError, "espeak-ng"):
        load_source("spoken-words")
    with refuses(DataError, "espeak-ng"):
        speak(Voice(program="espeak-ng", name="en"), "yes", Take(tempo=1.0, pitch=1.0))


@pytest.mark.parametrize("outcome", ["error", "nothing"])
def test_a_synthesizer_that_fails_is_one_sentence(monkeypatch: pytest.MonkeyPatch, outcome: str) -> None:
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        failed = outcome == "error"
        return subprocess.CompletedProcess(command, int(failed), "", "no such\nvoice" if failed else "")

    monkeypatch.setattr(subprocess, "run", run)
    with refuses(DataError, "flite", "'yes'", "'x'"):
        speak(Voice(program="flite", name="x"), "yes", Take(tempo=1.0, pitch=1.0))


@pytest.mark.skipif(not INSTALLED, reason="espeak-ng or flite is not installed")
def test_every_voice_speaks_and_the_same_each_time() -> None:
    take = Take(tempo=1.0, pitch=1.0)
    for role in ("train", "val", "test"):
        for voice in voices(role):
            assert 0.1 < len(speak(voice, "seven", take)) / RATE < 1.3
    for voice in (voices("train")[0], voices("test")[-1]):
        assert np.array_equal(speak(voice, "seven", take), speak(voice, "seven", take))
        slow, fast = (len(speak(voice, "seven", Take(tempo=tempo, pitch=1.0))) for tempo in (0.8, 1.3))
        assert slow > 1.2 * fast
        high = speak(voice, "seven", Take(tempo=1.0, pitch=1.5))
        assert not np.array_equal(log_mel(high), log_mel(speak(voice, "seven", take)))
    with pytest.raises(DataError, match="espeak-ng cannot say 'seven' with its voice 'nobody'"):
        speak(Voice(program="espeak-ng", name="nobody"), "seven", take)


@pytest.mark.skipif(not INSTALLED, reason="espeak-ng or flite is not installed")
def test_a_bank_is_in_the_order_of_voices_takes_and_words() -> None:
    chosen = [voices("train")[0], voices("test")[-1]]
    bank = speech.spoken_bank(chosen, ["yes", "no"], TAKES)
    assert bank.shape == (2, 2, 2, BANDS, FRAMES)
    assert np.array_equal(bank[1, 0, 1], log_mel(speak(chosen[1], "no", TAKES[0])))
