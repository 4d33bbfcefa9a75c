"""Choices of a run that have options of their own: the optimiser, the learning rate schedule and the mixing of images.

Each choice is an abstract class with one frozen dataclass per alternative, so that an option exists only where it acts.
On the command line, ``--model.optimizer AdamW`` chooses one and ``--model.optimizer.betas`` sets its options.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dynaconv.errors import RunError, check_range


def choice_text(value: Any) -> Any:
    """Return a choice of a configuration as ``SGD(momentum=0.9)``, and any other value as it is."""
    if not isinstance(value, dict) or "class_path" not in value:
        return value
    options = [f"{key}={option}" for key, option in (value.get("init_args") or {}).items() if option is not None]
    return f"{value['class_path'].rpartition('.')[2]}({', '.join(options)})"


class Optimizer(ABC):
    """An optimiser without its learning rates and weight decays, which are options of the module."""

    rule: ClassVar[str]
    """How the learning rate grows with the number of images per update."""

    @abstractmethod
    def make(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """Return torch's optimiser of parameter groups that have their own rates and weight decays."""

    @abstractmethod
    def lr_scale(self, ratio: float) -> float:
        """Return the factor on the learning rate for ``ratio`` times as many images per update."""


def _fuses(groups: list[dict[str, Any]]) -> bool | None:
    """Whether one operator updates all parameters, which takes less time on the CPU; None: as torch chooses."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    plain = all(type(each.data) is Tensor and each.device.type == "cpu" for each in parameters)
    return True if plain and all(each.is_floating_point() for each in parameters) else None


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent.

    Args:
        momentum: Momentum, in [0, 1).
        nesterov: Use Nesterov momentum; needs a momentum above 0.
    """

    momentum: float = 0.9
    nesterov: bool = True
    rule: ClassVar[str] = "the batch"

    def __post_init__(self) -> None:
        check_range("SGD.momentum", self.momentum, 0, 1, open_high=True)
        if self.nesterov and not self.momentum:
            raise RunError("SGD.nesterov needs a momentum above 0; set SGD.nesterov to false or raise SGD.momentum.")

    def make(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=lr, momentum=self.momentum, nesterov=self.nesterov, fused=_fuses(groups))

    def lr_scale(self, ratio: float) -> float:
        return ratio


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay.

    Args:
        betas: Decay rates of the averages of the gradient and of its square, each in [0, 1).
    """

    betas: tuple[float, float] = (0.9, 0.999)
    rule: ClassVar[str] = "the square root of the batch"

    def __post_init__(self) -> None:
        for value in self.betas:
            check_range("AdamW.betas", value, 0, 1, open_high=True)

    def make(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=lr, betas=self.betas, fused=_fuses(groups))

    def lr_scale(self, ratio: float) -> float:
        return math.sqrt(ratio)


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """A learning rate schedule. It sets the rate at every update, after a linear warm-up from zero.

    Args:
        warmup_epochs: Epochs of the warm-up, at least 0, which are part of the run's epochs.
    """

    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        check_range("schedule.warmup_epochs", self.warmup_epochs, 0)

    def factor(self, step: int, total: int, steps_per_epoch: float) -> float:
        """Return the learning rate after ``step`` of ``total`` updates as a fraction of the peak rate."""
        # A warm-up that is shorter than half a step takes one step, not zero.
        warmup = max(round(self.warmup_epochs * steps_per_epoch), 1) if self.warmup_epochs > 0 else 0
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return self._after_warmup(min((step - warmup) / max(total - warmup, 1), 1.0), step / steps_per_epoch)

    @abstractmethod
    def _after_warmup(self, progress: float, epoch: float) -> float:
        """Return the factor from the fraction of the updates after the warm-up, and the epochs since the start."""


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """Half a cosine wave, from the peak rate to the final one.

    Args:
        warmup_epochs: Epochs of linear warm-up from zero, at least 0, which are part of the run's epochs.
        end_factor: Final learning rate as a fraction of the peak rate, in [0, 1).
    """

    end_factor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("Cosine.end_factor", self.end_factor, 0, 1, open_high=True)

    def _after_warmup(self, progress: float, epoch: float) -> float:
        return self.end_factor + (1 - self.end_factor) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True)
class Step(Schedule):
    """A constant rate that is multiplied by a factor every few epochs.

    Args:
        warmup_epochs: Epochs of linear warm-up from zero, at least 0, which are part of the run's epochs.
        step_epochs: Epochs between two changes, above 0.
        gamma: Factor of each change, in (0, 1).
    """

    step_epochs: float = 30.0
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("Step.step_epochs", self.step_epochs, 0, open_low=True)
        check_range("Step.gamma", self.gamma, 0, 1, open_low=True, open_high=True)

    def _after_warmup(self, progress: float, epoch: float) -> float:
        return float(self.gamma ** math.floor(epoch / self.step_epochs))


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The peak rate.

    Args:
        warmup_epochs: Epochs of linear warm-up from zero, at least 0, which are part of the run's epochs.
    """

    def _after_warmup(self, progress: float, epoch: float) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Mix(ABC):
    """Mixing of each image and its label with those of another image of the batch.

    Args:
        prob: Probability that a batch is mixed, in (0, 1].
        ramp_epochs: Epochs over which the strength grows linearly to its value; 0 for the full strength at once.
    """

    prob: float = 1.0
    ramp_epochs: int = 0

    def __post_init__(self) -> None:
        check_range("mix.prob", self.prob, 0, 1, open_low=True)
        check_range("mix.ramp_epochs", self.ramp_epochs, 0, 1e6)

    @property
    @abstractmethod
    def timm_options(self) -> dict[str, float]:
        """Arguments of `timm.data.Mixup` at full strength."""


def _check_alpha(name: str, value: float) -> None:
    # Beyond 4, nearly every image is half of one and half of another. Below 1e-6, which mixes nothing, NumPy's beta
    # distribution underflows to NaN.
    check_range(name, value, 1e-6, 4)


@dataclass(frozen=True, kw_only=True)
class Mixup(Mix):
    """Weighted means of two images.

    Args:
        prob: Probability that a batch is mixed, in (0, 1].
        ramp_epochs: Epochs over which alpha grows linearly to its value; 0 for the full strength at once.
        alpha: Parameter of the beta distribution of the weights, in [1e-6, 4].

    Reference: Zhang et al., ICLR 2018, arXiv:1710.09412.
    """

    alpha: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_alpha("Mixup.alpha", self.alpha)

    @property
    def timm_options(self) -> dict[str, float]:
        return {"mixup_alpha": self.alpha, "cutmix_alpha": 0.0}


@dataclass(frozen=True, kw_only=True)
class CutMix(Mix):
    """A rectangle of an image replaced by that of another image.

    Args:
        prob: Probability that a batch is mixed, in (0, 1].
        ramp_epochs: Epochs over which alpha grows linearly to its value; 0 for the full strength at once.
        alpha: Parameter of the beta distribution of the area, in [1e-6, 4].

    Reference: Yun et al., ICCV 2019, arXiv:1905.04899.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_alpha("CutMix.alpha", self.alpha)

    @property
    def timm_options(self) -> dict[str, float]:
        return {"mixup_alpha": 0.0, "cutmix_alpha": self.alpha}


@dataclass(frozen=True, kw_only=True)
class MixupOrCutMix(Mix):
    """Either `Mixup` or `CutMix`, chosen at random for each batch.

    Args:
        prob: Probability that a batch is mixed, in (0, 1].
        ramp_epochs: Epochs over which both alphas grow linearly to their values; 0 for the full strength at once.
        mixup_alpha, cutmix_alpha: Parameters of the two beta distributions, in [1e-6, 4].
        switch_prob: Probability of CutMix, in (0, 1).
    """

    mixup_alpha: float = 0.2
    cutmix_alpha: float = 1.0
    switch_prob: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_alpha("MixupOrCutMix.mixup_alpha", self.mixup_alpha)
        _check_alpha("MixupOrCutMix.cutmix_alpha", self.cutmix_alpha)
        check_range("MixupOrCutMix.switch_prob", self.switch_prob, 0, 1, open_low=True, open_high=True)

    @property
    def timm_options(self) -> dict[str, float]:
        return {
            "mixup_alpha": self.mixup_alpha,
            "cutmix_alpha": self.cutmix_alpha,
            "switch_prob": self.switch_prob,
        }
