"""The options of DCD and the sizes that follow from them for a convolution."""

import dataclasses
import math
from typing import Any, Literal, NamedTuple, Self

from dynaconv.errors import received
from dynaconv.families.contract.branch import ACTIVATIONS
from dynaconv.families.contract.checks import check_choice, check_divides, check_integer
from dynaconv.families.contract.config import BranchConfig
from dynaconv.families.contract.norms import CONTEXT_NORMS
from dynaconv.families.contract.options import option
from dynaconv.families.dcd import DCDForm, default_latent_dim, default_latent_taps

Variant = Literal["full", "scale", "residual", "input"]
Fusion = Literal["auto", "channel", "joint", "depthwise"]
Activation = Literal["auto", "relu", "relu6", "silu", "gelu", "hardswish", "gate"]
ScaleActivation = Literal["auto", "linear", "hard_sigmoid", "sigmoid", "tanh"]
ContextNorm = Literal["auto", "layer", "batch", "running"] | None
HiddenNorm = Literal["auto", "unit"] | None
Norm = Literal["batch"] | None
Algorithm = Literal["auto", "kernel", "factored"]

ALGORITHMS = ("auto", "kernel", "factored")
SMALL_CONTEXT = 4
"""Largest number of context features for which the branch keeps the context's length; see `DCDConfig.keeps_length`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DCDConfig(BranchConfig):
    """Options of a DCD layer, in addition to the arguments of the convolution.

    Raises:
        ValueError: a field has a value outside the range given here.

    Reference: Li et al., ICLR 2021, arXiv:2103.08756v1.
    """

    _algorithms = ALGORITHMS
    _context_norms = ("auto", *CONTEXT_NORMS)

    variant: Variant = option(
        "full",
        "``full`` is Lambda W0 + P Phi Q^T, ``scale`` Lambda W0 alone, ``residual`` W0 + P Phi Q^T, ``input`` W0 S, "
        "with a diagonal S(x) that scales the input channels; S has the activation and the bound of Lambda.",
    )
    fusion: Fusion = option(
        "auto",
        "Form of the residual. ``auto``: ``depthwise`` for a depthwise convolution, else ``channel``.",
    )
    latent_dim: int | None = option(
        None,
        "L of one block, at most the larger of its input and output channels; None: floor(C / 2^floor(log2 sqrt C)).",
    )
    latent_taps: int | None = option(None, "L_k, 1 to k^2, of the joint and depthwise forms; None: floor(k^2 / 2).")
    blocks: int | None = option(
        None,
        "B, the number of diagonal blocks of the residual, a multiple of groups; None: groups.",
    )
    reduction: int = option(
        16,
        "r: the branch has max(C_in // r, min_hidden_channels) hidden units; see `keeps_length` for small contexts.",
    )
    hidden_channels: int | None = option(
        None, "Number of hidden units, in place of `reduction` and `min_hidden_channels`."
    )
    min_hidden_channels: int = option(16, "Minimum number of hidden units.")
    context_size: Literal[1, 2] = option(1, "The input is averaged over a grid of this many cells along each axis.")
    context_norm: ContextNorm = option(
        "auto",
        "``layer`` normalises each context over its features, ``batch`` each feature over the batch, ``running`` each "
        "feature by the statistics of earlier batches; none has scale and shift. With ``batch`` in train mode, a "
        "kernel depends on the whole batch, and a single sample is normalised by running statistics. ``auto``: "
        '``batch``, but None with ``norm="batch"``.',
    )
    hidden_norm: HiddenNorm = option(
        "auto",
        "``unit`` divides the branch's hidden vector by its length. ``auto``: ``unit``, but None with "
        '``norm="batch"``.',
    )
    gain: float = option(1.0, "Factor on the logits of Lambda and on Phi.")
    weight_norm: bool | None = option(
        None,
        "Divide each row w of a head by sqrt(1 + |w|^2 / b^2), which limits its length to b, and the residual by the "
        "lengths of P's, Q's and R's columns; b is 1 for Lambda and max(L, L_k)^(-1/2) for Phi. Coefficients are then "
        "bounded, and the effective learning rate falls as weights grow, as for weights before a batch norm. None: "
        'True, but False with ``norm="batch"``, which does not allow True.',
    )
    activation: Activation = option(
        "auto",
        'Activation of the branch. ``auto``: ``relu``, or ``gate``, h * hsig(F2 h), with ``norm="batch"``.',
    )
    scale_activation: ScaleActivation = option(
        "auto",
        "Function from a logit t to Lambda, 1 at t = 0: ``linear`` 1 + t, ``hard_sigmoid`` relu6(t + 3) / 3 in "
        "[0, 2], ``sigmoid`` 2 sigmoid(t) in (0, 2), ``tanh`` 1 + tanh(t) in (0, 2). ``auto``: ``sigmoid``, or "
        '``hard_sigmoid`` with ``norm="batch"``.',
    )
    norm: Norm = option(
        None,
        "``batch`` adds batch norms and a skip connection around Phi, as in the published code (channel form only).",
    )
    algorithm: Algorithm = option(
        "auto",
        "``kernel`` forms W(x), ``factored`` applies its factors to feature maps, ``auto`` uses the cost model.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("variant", self.variant, ("full", "scale", "residual", "input"))
        check_choice("fusion", self.fusion, ("auto", "channel", "joint", "depthwise"))
        for name in ("latent_dim", "latent_taps", "blocks", "hidden_channels"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name))
        check_choice("context_size", self.context_size, (1, 2))
        if self.context_features is not None and self.context_size != 1:
            raise ValueError("context_size has no effect on a context that is given; leave it or context_features out.")
        check_choice("hidden_norm", self.hidden_norm, ("auto", "unit", None))
        if type(self.gain) not in (int, float) or not 0 < self.gain < math.inf:
            raise ValueError(f"gain must be a positive number; got {received(self.gain)}.")
        check_choice("activation", self.activation, ("auto", *ACTIVATIONS, "gate"))
        check_choice("scale_activation", self.scale_activation, ("auto", "linear", "hard_sigmoid", "sigmoid", "tanh"))
        check_choice("norm", self.norm, (None, "batch"))
        check_choice("weight_norm", self.weight_norm, (None, False, True))
        if self.weight_norm and self.norm == "batch":
            raise ValueError(
                'weight_norm=True bounds the residual, which norm="batch" normalises already; leave one of them out.'
            )
        if self.hidden_channels is not None:
            for name in ("reduction", "min_hidden_channels"):
                if name in self.changes():
                    raise ValueError(
                        f"hidden_channels is the number of hidden units, so {name} has no effect; leave one out."
                    )
        self._check_variant()

    def _check_variant(self) -> None:
        """Raise ValueError if an option is set that the variant does not use."""
        without_residual = ("fusion", "latent_dim", "latent_taps", "blocks")
        unused = {"scale": without_residual, "input": without_residual, "residual": ("scale_activation",)}
        missing = {"scale": "residual", "input": "residual", "residual": "Lambda"}
        for name in unused.get(self.variant, ()):
            if getattr(self, name) not in (None, "auto"):
                raise ValueError(
                    f"variant={self.variant!r} has no {missing[self.variant]}, so {name} has no meaning; leave it out."
                )

    @property
    def has_scale(self) -> bool:
        """Whether W(x) has Lambda(x)."""
        return self.variant in ("full", "scale")

    @property
    def has_input_scale(self) -> bool:
        """Whether W(x) has S(x)."""
        return self.variant == "input"

    @property
    def has_residual(self) -> bool:
        """Whether W(x) has the residual P Phi(x) Q^T."""
        return self.variant in ("full", "residual")

    def keeps_length(self, context_features: int) -> bool:
        """Whether the branch keeps the length of the context, which a hidden vector of unit length would remove.

        It does for a context of at most `SMALL_CONTEXT` features, with a unit hidden vector and without a layer norm.
        One hidden unit is then initially constant and the others are initialised in pairs, w and -w, so that the
        normalised hidden vector determines the context. The branch has at least ``2 * context_features + 1`` hidden
        units unless `hidden_channels` is set.
        """
        resolved = self.resolved
        small = context_features <= SMALL_CONTEXT
        return small and resolved.hidden_norm == "unit" and resolved.context_norm != "layer"

    @property
    def resolved(self) -> Self:
        """A copy of the config with every default that depends on `norm` replaced by its value."""
        batch = self.norm == "batch"

        def resolve(value: Any, automatic: Any) -> Any:
            return automatic if value == "auto" else value

        return dataclasses.replace(
            self,
            context_norm=resolve(self.context_norm, None if batch else "batch"),
            hidden_norm=resolve(self.hidden_norm, None if batch else "unit"),
            weight_norm=not batch if self.weight_norm is None else self.weight_norm,
            activation=resolve(self.activation, "gate" if batch else "relu"),
            scale_activation=resolve(self.scale_activation, "hard_sigmoid" if batch else "sigmoid")
            if self.has_scale or self.has_input_scale
            else self.scale_activation,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DCDLinearConfig(DCDConfig):
    """Options of a linear DCD layer.

    Raises:
        ValueError: a field has a value outside the range given here.
    """

    average_rows: bool = option(
        False,
        "Whether the context is the mean over the rows of a sample of ``(B, ..., in_features)``, all with one matrix, "
        "as in a 1x1 convolution; False: each row is its own context. `convert` sets it.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("average_rows", self.average_rows, (False, True))
        if self.average_rows and self.context_features is not None:
            raise ValueError("average_rows has no effect on a context that is given; leave it or context_features out.")


class DCDSizes(NamedTuple):
    """Sizes that follow from a config for one convolution. L and L_k are 0 without a residual."""

    form: DCDForm
    blocks: int
    latent_dim: int
    latent_taps: int
    hidden_channels: int
    context_features: int

    @property
    def fusion_shape(self) -> tuple[int, ...]:
        """Shape of Phi(x) of one sample in the algorithms."""
        if self.form == "depthwise":
            return (self.latent_taps, self.latent_taps)
        if self.form == "joint":
            return (self.blocks, self.latent_dim, self.latent_dim, self.latent_taps)
        return (self.blocks, self.latent_dim, self.latent_dim)


def dcd_sizes(
    config: DCDConfig, in_channels: int, out_channels: int, groups: int, num_taps: int, dims: int = 2
) -> DCDSizes:
    """Return the sizes of a DCD layer for a convolution over ``dims`` spatial axes.

    Raises:
        ValueError: a size does not match the convolution.
    """
    pooled = config.context_features or in_channels
    context = pooled * config.context_size**dims
    least = 2 * context + 1 if config.keeps_length(context) else config.min_hidden_channels
    hidden = config.hidden_channels or max(pooled // config.reduction, config.min_hidden_channels, least)
    form = _form(config, in_channels, groups)
    if not config.has_residual:
        return DCDSizes(form, 1, 0, 0, hidden, context)
    if config.norm == "batch" and form != "channel":
        raise ValueError(
            f"norm='batch' is defined for channel fusion only; got fusion={form!r}. Use norm=None, or fusion='channel'."
        )
    taps = _latent_taps(config, form, num_taps)
    if form == "depthwise":
        for name in ("latent_dim", "blocks"):
            if getattr(config, name) is not None:
                raise ValueError(f"{name} has no meaning in the depthwise form, whose latent size is latent_taps.")
        return DCDSizes(form, 1, 0, taps, hidden, context)
    blocks = groups if config.blocks is None else config.blocks
    if blocks % groups:
        raise ValueError(
            f"blocks={blocks} must be a multiple of groups={groups}, so that no block reaches across groups."
        )
    check_divides("blocks", blocks, "in_channels", in_channels)
    check_divides("blocks", blocks, "out_channels", out_channels)
    latent = config.latent_dim or default_latent_dim(min(in_channels, out_channels) / blocks / taps)
    most = max(in_channels, out_channels) // blocks
    if latent > most:
        raise ValueError(
            f"latent_dim={latent} is more than the {most} channels of a block (in_channels={in_channels}, "
            f"out_channels={out_channels}, blocks={blocks}); use 1 to {most}."
        )
    return DCDSizes(form, blocks, latent, taps, hidden, context)


def _form(config: DCDConfig, in_channels: int, groups: int) -> DCDForm:
    depthwise = groups == in_channels
    if config.fusion == "auto":
        return "depthwise" if depthwise and in_channels > 1 else "channel"
    if config.fusion == "depthwise" and not depthwise:
        raise ValueError(
            f"fusion='depthwise' needs a depthwise convolution (groups == in_channels); got groups={groups}, "
            f"in_channels={in_channels}. Use fusion='channel' or 'joint'."
        )
    return config.fusion


def _latent_taps(config: DCDConfig, form: DCDForm, num_taps: int) -> int:
    if form == "channel":
        if config.latent_taps not in (None, 1):
            raise ValueError(
                f"channel fusion has latent_taps=1 (the centre tap); got {config.latent_taps}. Use fusion='joint'."
            )
        return 1
    taps = config.latent_taps or default_latent_taps(num_taps)
    if taps > num_taps:
        raise ValueError(f"latent_taps={taps} is more than the kernel's {num_taps} taps; use 1 to {num_taps}.")
    return taps
