"""Speaks words with speech synthesizers of Debian, and computes their spectrograms."""

import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from dynaconv.errors import DataError

RATE = 16_000
BANDS, FRAMES = 40, 128
HOP, WINDOW = 160, 512
"""Hop and length of a frame, in samples: one frame of 32 ms every 10 ms."""
RANGE_DB = 80.0
_LOWEST, _HIGHEST = 60.0, 7600.0

Audio = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Voice:
    """A voice of a synthesizer.

    Attributes:
        program: The synthesizer.
        name: Name of the voice in the synthesizer.
    """

    program: Literal["espeak-ng", "flite"]
    name: str


@dataclass(frozen=True, kw_only=True)
class Take:
    """A variation of a voice.

    Attributes:
        tempo: Factor on the default speed of the voice.
        pitch: Factor on its default pitch.
    """

    tempo: float
    pitch: float


def program_version(program: str) -> str:
    """Return the version of a synthesizer, as it prints it.

    Raises:
        DataError: The synthesizer is not installed; the message has the command that installs it.
    """
    if shutil.which(program) is None:
        raise DataError(
            f"the data set 'spoken-words' needs the speech synthesizer {program}, which is not installed; run "
            f"`apt-get install --no-install-recommends espeak-ng flite`."
        )
    run = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return " ".join((run.stdout or run.stderr).split("Data at")[0].split())


def speak(voice: Voice, word: str, take: Take) -> Audio:
    """Speak a word.

    Returns:
        Samples in [-1, 1] at 16 kHz, without the silence around the word.

    Raises:
        DataError: The synthesizer is missing, fails, or has no such voice.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "word.wav"
        try:
            run = subprocess.run(_command(voice, word, take, file), capture_output=True, text=True, check=False)
        except FileNotFoundError:
            program_version(voice.program)
            raise
        raw = file.read_bytes() if file.is_file() else b""
    if run.returncode or len(raw) <= 44:
        reason = " ".join((run.stderr or run.stdout).split()) or "it wrote nothing"
        raise DataError(f"{voice.program} cannot say {word!r} with its voice {voice.name!r}: {reason}.")
    return trimmed(read_wave(raw))


def _command(voice: Voice, word: str, take: Take, file: Path) -> list[str]:
    if voice.program == "espeak-ng":
        # The pitch of espeak-ng is from 0 to 99; 50 is the default.
        pitch, speed = round(50 * take.pitch), round(160 * take.tempo)
        return ["espeak-ng", "-v", voice.name, "-s", str(speed), "-p", str(pitch), "-w", str(file), word]
    stretch = ["--setf", f"duration_stretch={1 / take.tempo:.3f}"]
    pitch_shift = ["--setf", f"int_f0_target_mean={110 * take.pitch:.1f}"]
    return ["flite", "-voice", voice.name, *stretch, *pitch_shift, "-t", word, "-o", str(file)]


def read_wave(raw: bytes) -> Audio:
    """Read a WAV file with one channel and 16 bits as samples in [-1, 1], resampled to 16 kHz."""
    from scipy.io import wavfile
    from scipy.signal import resample_poly

    rate, integers = wavfile.read(io.BytesIO(raw))
    samples = integers.astype(np.float32) / 2**15
    common = int(np.gcd(rate, RATE))
    resampled: Audio = resample_poly(samples, RATE // common, rate // common).astype(np.float32)
    return resampled


def trimmed(samples: Audio, threshold_db: float = -40.0) -> Audio:
    """Trim leading and trailing samples that are below a threshold relative to the loudest sample."""
    loud = np.flatnonzero(np.abs(samples) > np.abs(samples).max(initial=0) * 10 ** (threshold_db / 20))
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples


@cache
def mel_filters() -> npt.NDArray[np.float32]:
    """Return triangles of equal width on the mel scale 2595 lg(1 + f / 700 Hz), from 60 to 7600 Hz.

    Returns:
        ``(BANDS, WINDOW // 2 + 1)``, each band summing to 1.
    """
    lowest, highest = (2595 * np.log10(1 + frequency / 700) for frequency in (_LOWEST, _HIGHEST))
    edges = 700 * (10 ** (np.linspace(lowest, highest, BANDS + 2) / 2595) - 1)
    frequencies = np.arange(WINDOW // 2 + 1) * RATE / WINDOW
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.clip(np.minimum(rising, falling), 0, None)
    # The lowest bands are narrower than the distance between two frequencies, and could be empty.
    nearest = np.abs(frequencies - edges[1:-1, None]).argmin(1)
    triangles[np.arange(BANDS), nearest] += 1e-3
    filters: npt.NDArray[np.float32] = (triangles / triangles.sum(1, keepdims=True)).astype(np.float32)
    return filters


def log_mel(samples: Audio) -> npt.NDArray[np.uint8]:
    """Return the log-mel spectrogram of a word.

    Args:
        samples: Samples at 16 kHz.

    Returns:
        ``uint8``, ``(BANDS, FRAMES)``, low frequencies first, the word in the middle; 255 is its loudest point, and 0
        is 80 dB below that. A word longer than 1.28 s is cropped at both ends.
    """
    # Pre-emphasis: speech is weaker at high frequencies, which distinguish consonants.
    emphasised = np.append(samples[:1], samples[1:] - 0.97 * samples[:-1])
    padded = np.pad(emphasised, WINDOW // 2)
    count = max(1 + (len(padded) - WINDOW) // HOP, 1)
    padded = np.pad(padded, (0, max(0, (count - 1) * HOP + WINDOW - len(padded))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:count] * np.hanning(WINDOW)
    spectrum = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    # Not a matrix product, because BLAS would start threads in each thread that calls this.
    power = np.einsum("tf,bf->tb", spectrum, mel_filters())
    decibel = 10 * np.log10(np.maximum(power / max(power.max(), 1e-12), 1e-12)).T
    picture = np.clip((decibel + RANGE_DB) * (255 / RANGE_DB), 0, 255).round().astype(np.uint8)
    if picture.shape[1] > FRAMES:
        start = (picture.shape[1] - FRAMES) // 2
        picture = picture[:, start : start + FRAMES]
    before = (FRAMES - picture.shape[1]) // 2
    return np.pad(picture, ((0, 0), (before, FRAMES - picture.shape[1] - before)))


def spoken_bank(voices: Sequence[Voice], words: Sequence[str], takes: Sequence[Take]) -> npt.NDArray[np.uint8]:
    """Speak every word with every voice, in one thread per core.

    Returns:
        ``uint8``, ``(voices, takes, words, BANDS, FRAMES)``.

    Raises:
        DataError: As for `speak`.
    """
    jobs = [(voice, word, take) for voice in voices for take in takes for word in words]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pictures = list(pool.map(lambda job: log_mel(speak(*job)), jobs))
    return np.stack(pictures).reshape(len(voices), len(takes), len(words), BANDS, FRAMES)
