"""Options of FDConv."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from dynaconv.errors import received
from dynaconv.families.contract.checks import as_int, check_choice, check_integer
from dynaconv.families.contract.config import BranchConfig
from dynaconv.families.contract.options import option
from dynaconv.families.contract.temperature import check_temperature

FDConvAlgorithm = Literal["auto", "kernel", "grouped"]
PUBLISHED_BANDS = (2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class FDConvConfig(BranchConfig):
    """Options of `FDConv2d`.

    Raises:
        ValueError: a field is out of range.
    """

    _algorithms = get_args(FDConvAlgorithm)

    num_kernels: int = option(
        64,
        "K, the number of groups of frequencies of the kernel, each with a gain of its own. If it does not divide the "
        "number of stored frequencies, the largest divisor below it is used; the layer's ``num_kernels`` says which.",
    )
    min_hidden_channels: int = 16
    spectra: int = option(1, "Number of spectra, each with K gains, whose kernels are added.")
    stored: str = option(
        "spectrum", "Trained form of the static kernel: ``spectrum``, or ``kernel``, transformed in each forward pass."
    )
    gate: str = option("sigmoid", "Activation of the gates and gains: ``sigmoid``, or ``tanh`` for 1 + tanh(logit).")
    gate_limit: float = option(2.0, "Upper limit of a gate with ``sigmoid``, > 0; 2 makes neutral gates 1.")
    temperature: float = option(1.0, "Divisor, > 0, of the logits of the channel, filter and spatial gates.")
    kernel_temperature: float = option(1.0, "Divisor, > 0, of the logits of the K gains.")
    local_gate: str | None = option(
        "sigmoid", "Activation of the gates of single kernel elements, as ``gate``; None: no such gates."
    )
    bands: tuple[int, ...] | None = option(
        None,
        "Divisors n > 1, ascending; each adds a low-pass filter that keeps frequencies below 1 / (2 n) cycles per "
        "pixel. The input's bands between them are modulated. () for none; None: 2, 4, 8 for a 3x3 kernel, else none.",
    )
    band_groups: int = option(
        1, "Number of groups of channels, each with maps of its own; above 64, each channel is one."
    )
    band_kernel_size: int = option(3, "Side length, odd, of the convolutions that compute the maps.")
    band_gate: str = option("sigmoid", "Activation of the maps, as ``gate``, or ``softmax`` over the groups.")
    low_band: bool = option(False, "Whether the lowest band has a map too.")
    algorithm: str = option(
        "auto",
        "``kernel`` forms W(x) and applies it by matrix products, ``grouped`` convolves with the batch folded into "
        "groups, ``auto`` uses the cost model.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_kernels", "spectra", "band_groups", "band_kernel_size"):
            check_integer(name, getattr(self, name))
        check_choice("stored", self.stored, ("spectrum", "kernel"))
        check_choice("gate", self.gate, ("sigmoid", "tanh"))
        check_choice("local_gate", self.local_gate, ("sigmoid", "tanh", None))
        check_choice("band_gate", self.band_gate, ("sigmoid", "tanh", "softmax"))
        check_choice("low_band", self.low_band, (False, True))
        for name in ("temperature", "kernel_temperature", "gate_limit"):
            _check_number(name, getattr(self, name))
        if self.band_kernel_size % 2 == 0:
            raise ValueError(f"band_kernel_size must be odd, so that maps keep the size; got {self.band_kernel_size}.")
        if self.bands is not None:
            object.__setattr__(self, "bands", _checked_bands(self.bands))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dict, from which `from_dict` builds an equal config."""
        fields = super().to_dict()
        return fields if self.bands is None else {**fields, "bands": list(self.bands)}

    def bands_of(self, kernel_size: tuple[int, ...]) -> tuple[int, ...]:
        """Return the divisors of the low-pass filters for a kernel of this size."""
        if self.bands is not None:
            return self.bands
        return PUBLISHED_BANDS if kernel_size == (3, 3) else ()


def _check_number(name: str, value: object) -> None:
    try:
        check_temperature(value)
    except ValueError:
        raise ValueError(f"{name} must be a positive number; got {received(value)}.") from None


def _checked_bands(given: object) -> tuple[int, ...]:
    numbers = [as_int(value) for value in given] if isinstance(given, tuple | list) else [None]
    bands = tuple(number for number in numbers if number is not None and number > 1)
    if len(bands) != len(numbers) or list(bands) != sorted(set(bands)):
        raise ValueError(f"bands must be ascending integers above 1, such as (2, 4, 8); got {received(given)}.")
    return bands
