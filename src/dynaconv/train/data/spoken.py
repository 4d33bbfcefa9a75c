"""The data set of spoken words: spectrograms that are augmented anew every time; whole speakers are held out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dynaconv.errors import DataError, received
from dynaconv.train.data.augment import between, each, log_between, sample_affine, white_noise
from dynaconv.train.data.bank_cache import Bank, cached_bank
from dynaconv.train.data.drawn import drawn_source, sorted_by_class
from dynaconv.train.data.keyed import uniform
from dynaconv.train.data.source import Source
from dynaconv.train.data.source_options import DrawnOptions
from dynaconv.train.data.speech import FRAMES, HOP, RANGE_DB, RATE, Take, Voice, program_version, spoken_bank

IMAGE_SIZE = 40
EPOCH = 100_000
_WORDS = """
    zero one two three four five six seven eight nine yes no up down left right on off stop go bed bad bird board bit
    beat boat boot cat cut cot caught dog dig duck desk ship sheep shop shape house horse happy hammer tree tray wow
    window yellow mellow pillow willow red read rid road blue blow black block green grain grey great white what wait
    follow forward backward learn lane line loan marvin sheila water waiter better butter
"""
WORDS = tuple(_WORDS.split())
TAKES = (Take(tempo=0.85, pitch=0.8), Take(tempo=1.2, pitch=1.25))
_ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc")
# Voice variants of espeak-ng. The voices of flite below are those of recorded speakers.
_VARIANTS = {
    "train": (
        "m1 m2 m3 m4 m5 m7 f1 f2 f3 f4 adam Alex Alicia Andrea Andy Annie antonio aunty belinda benjamin boris caleb "
        "david Denis Diogo ed Gene Henrique Hugo iven Jacky john klatt travis whisper croak"
    ),
    "val": "f5 m6 Lee linda marcelo Marco Michael grandpa",
    "test": "m8 Mario max Mike Nguyen pablo paul pedro quincy rob Steph victor zac anika grandma shelby",
}
_RECORDED = {"train": ("awb", "kal16"), "val": ("rms",), "test": ("slt",)}
_SPECTRUM_VERSION = 1
"""Version of `speech.log_mel`; a new one for new spectrograms, so that older banks in the cache are not used."""
_MEAN, _STD = (0.55,), (0.18,)


@dataclass(frozen=True, kw_only=True)
class SpokenOptions(DrawnOptions):
    """Options of the data set ``spoken-words``.

    Attributes:
        words: English words of letters only, one class each; they replace the 80 built-in words.
        distinct: If not ``None``, training uses only that many different pictures, repeatedly.

    Raises:
        DataError: A value is invalid.
    """

    words: Sequence[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        words = self.words
        if words is None:
            return
        if isinstance(words, str) or not all(
            isinstance(word, str) and word.isascii() and word.isalpha() for word in words
        ):
            raise DataError(f"data.options.words must be a list of words of the letters a to z; got {received(words)}.")
        if len(set(words)) < max(len(words), 2):
            raise DataError(
                f"data.options.words must have two or more words and none twice; got {received(list(words))}."
            )


@dataclass(frozen=True, kw_only=True)
class SpokenAugment:
    """Random tempo, pitch, position, loudness, filter and noise for spectrograms in decibels.

    Attributes:
        size: Side length of the result.
        seconds: Length of the time window of the result, before the tempo changes it.
        tempo: Range of the factor on the duration.
        pitch: Largest shift along the mel scale, as a fraction of its range.
        stretch: Largest factor by which the mel scale is stretched or compressed; at least 1.
        shift: Largest shift in time, as a fraction of the window.
        gain: Range of the gain, in decibels.
        tilt: Largest change of the gain from the middle of the mel scale to its ends, in decibels.
        noise: Range of the noise level relative to the loudest point of the word, in decibels.
        noise_tilt: Largest change of the noise level from the middle of the mel scale to its ends, in decibels.
        flicker: Standard deviation of the noise level from point to point, in decibels.
    """

    size: int
    seconds: float = 0.6
    tempo: tuple[float, float] = (0.75, 1.35)
    pitch: float = 0.08
    stretch: float = 1.2
    shift: float = 0.15
    gain: tuple[float, float] = (-10.0, 0.0)
    tilt: float = 12.0
    noise: tuple[float, float] = (-50.0, -10.0)
    noise_tilt: float = 10.0
    flicker: float = 4.0

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Draw one picture of each word.

        Args:
            images: ``uint8``, ``(B, 1, BANDS, FRAMES)``, as `speech.log_mel` returns them.
            keys: Random key of each picture, ``int64`` ``(B,)``.

        Returns:
            ``uint8``, ``(B, 1, size, size)``, low frequencies at the bottom.
        """
        draw = iter(uniform(keys, 10))
        duration = log_between(*self.tempo, next(draw)) * (FRAMES * HOP / RATE / self.seconds)
        shift = between(-2 * self.shift, 2 * self.shift, next(draw))
        stretch = log_between(1 / self.stretch, self.stretch, next(draw))
        pitch = between(-2 * self.pitch, 2 * self.pitch, next(draw))
        none = torch.zeros_like(shift)
        # The stored spectrum has its low frequencies at the top.
        matrix = (1 / duration, none, -shift / duration, none, -1 / stretch, -pitch / stretch)
        word = sample_affine(images.float().div_(255), matrix, (self.size, self.size)) * RANGE_DB - RANGE_DB
        height = torch.linspace(1, -1, self.size)[:, None]
        word += each(between(-self.tilt, self.tilt, next(draw))) * height
        flicker = white_noise(next(draw), next(draw), self.size**2).view(-1, 1, self.size, self.size)
        level = between(*self.noise, next(draw)), between(-self.noise_tilt, self.noise_tilt, next(draw))
        noise = each(level[0]) + each(level[1]) * height + self.flicker * flicker
        # The powers of word and noise add up.
        nepers = math.log(10) / 10
        both = torch.logaddexp(word * nepers, noise * nepers) / nepers + each(between(*self.gain, next(draw)))
        return both.add_(RANGE_DB).mul_(255 / RANGE_DB).round_().clamp_(0, 255).to(torch.uint8)


def voices(role: str) -> list[Voice]:
    """Return the voices of a role.

    Args:
        role: ``"train"``, ``"val"`` or ``"test"``.
    """
    synthetic = [
        Voice(program="espeak-ng", name=f"{_ACCENTS[number % len(_ACCENTS)]}+{variant}")
        for number, variant in enumerate(_VARIANTS[role].split())
    ]
    return synthetic + [Voice(program="flite", name=name) for name in _RECORDED[role]]


def spoken_words(options: SpokenOptions, *, image_size: int | None) -> Source:
    """Return the data set of words that espeak-ng and flite speak, in 64 voices.

    Args:
        options: The words, and the number of different pictures.
        image_size: Side length of the pictures; by default 40.

    Raises:
        DataError: A synthesizer is missing or fails.
    """
    words = tuple(options.words or WORDS)
    size = image_size or IMAGE_SIZE
    train, validation, test = (_bank(role, words) for role in ("train", "val", "test"))
    return drawn_source(
        "spoken-words",
        SpokenAugment(size=size),
        train=train,
        validation=validation,
        test=test,
        length=EPOCH,
        distinct=options.distinct,
        class_names=words,
        mean=_MEAN,
        std=_STD,
        image_size=size,
    )


def _bank(role: str, words: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Return the spectrograms of a role's voices and their classes, sorted by word."""
    speakers = voices(role)
    key = {
        "voices": [(voice.program, voice.name) for voice in speakers],
        "spectrum": _SPECTRUM_VERSION,
        "takes": [(take.tempo, take.pitch) for take in TAKES],
        "words": words,
        "versions": [program_version(program) for program in ("espeak-ng", "flite")],
    }
    bank = cached_bank("spoken-words", key, partial(_speak_all, speakers, words)).images
    return sorted_by_class(bank.flatten(0, 1))


def _speak_all(speakers: Sequence[Voice], words: Sequence[str]) -> Bank:
    return Bank(images=torch.from_numpy(spoken_bank(speakers, words, TAKES)), facts={})
