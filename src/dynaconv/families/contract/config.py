"""Base classes of the families' configs."""

import dataclasses
from collections.abc import Mapping
from numbers import Real
from typing import Any, ClassVar, Self

from dynaconv.errors import received
from dynaconv.families.contract.checks import as_int, check_choice, check_divisor, check_integer
from dynaconv.families.contract.norms import CONTEXT_NORMS
from dynaconv.families.contract.options import option
from dynaconv.families.contract.temperature import check_temperature


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """The validated options of a dynamic layer: the keyword-only arguments of its constructor.

    Every family has a subclass with its options as fields, from which the constructor's signature follows.
    """

    _algorithms: ClassVar[tuple[str, ...]]
    """Valid values of `algorithm`."""
    _context_norms: ClassVar[tuple[str | None, ...]] = CONTEXT_NORMS
    """Valid values of `context_norm`."""

    context_norm: str | None = option(
        None,
        "Norm of the branch's input, without scale and shift: ``layer`` normalises over the features, ``batch`` each "
        "feature over the batch, ``running`` each feature by the statistics of earlier batches; None: no norm. In eval "
        "mode ``batch`` and ``running`` have fixed statistics, and `dynaconv.deploy` folds them into the branch.",
    )
    algorithm: str = option("auto", "``auto`` or one of the family's algorithms.")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            # Numbers of NumPy become Python's, which every check accepts and JSON can hold.
            if isinstance(value, Real) and hasattr(value, "item"):
                object.__setattr__(self, field.name, value.item())
        check_choice("context_norm", self.context_norm, self._context_norms)
        check_choice("algorithm", self.algorithm, self._algorithms)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dict, from which `from_dict` builds an equal config."""
        fields = dataclasses.asdict(self)
        return {name: value if (number := as_int(value)) is None else number for name, value in fields.items()}

    def changes(self) -> dict[str, Any]:
        """Return the fields whose values differ from the defaults."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return {name: value for name, value in self.to_dict().items() if value != defaults[name]}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Build a config from the given fields.

        Raises:
            ValueError: a key is not a field of this class, or a value is out of range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in fields:
            check_choice(f"an option of {cls.__name__}", key, known)
        return cls(**fields)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContextConfig(LayerConfig):
    """The options of a layer whose branch can read a context that is given."""

    context_features: int | None = option(
        None,
        "F: the branch reads a context ``(B, F)`` that is given as ``layer(x, context)``, such as one that several "
        "layers share; None: it reads the averaged input.",
    )

    shared_context: str | None = option(
        None,
        "Name of the layer of the network whose averaged input is the context; layers with the same name share it. "
        "`convert` with context='block' sets it.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.context_features is not None:
            check_integer("context_features", self.context_features)
        if self.shared_context is None:
            return
        if not isinstance(self.shared_context, str) or not self.shared_context:
            raise ValueError(
                f"shared_context must be the name of a layer, or None; got {received(self.shared_context)}."
            )
        if self.context_features is None:
            raise ValueError(
                f"shared_context={self.shared_context!r} needs context_features, the channels of that layer's input."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class BranchConfig(ContextConfig):
    """The options of a layer whose branch has a hidden layer."""

    reduction: int = option(16, "The branch has max(channels // reduction, min_hidden_channels) hidden units.")
    min_hidden_channels: int = option(4, "Minimum number of hidden units.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_divisor("reduction", self.reduction, example=16)
        check_integer("min_hidden_channels", self.min_hidden_channels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionConfig(BranchConfig):
    """The options of a layer with attention over kernels."""

    num_kernels: int = option(4, "K, the number of kernels.")
    temperature: float = option(
        1.0,
        "Initial temperature, > 0, which divides the logits of the attention; `set_temperature` changes it later. It "
        "is saved in the state dict and never averaged with the weights.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("num_kernels", self.num_kernels)
        check_temperature(self.temperature)
