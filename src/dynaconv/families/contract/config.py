"""What every family's config has in common."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from dynaconv.families.contract.checks import as_int, check_choice, check_positive, check_reduction
from dynaconv.families.contract.norms import CONTEXT_NORMS
from dynaconv.families.contract.options import option
from dynaconv.families.contract.temperature import check_temperature


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """The options of a dynamic layer: the keyword-only arguments of its constructor, checked.

    Every family has a subclass with its options as fields, from which the constructor's signature follows.
    """

    _algorithms: ClassVar[tuple[str, ...]]
    """What `algorithm` may be."""
    _context_norms: ClassVar[tuple[str | None, ...]] = CONTEXT_NORMS
    """What `context_norm` may be."""

    context_norm: str | None = option(
        None,
        "Norm of what the branch reads, without scale and shift: ``layer`` over its numbers, ``batch`` each "
        "number over the batch, ``running`` each by the statistics of earlier batches; None leaves it as it is. "
        "In eval mode the last two are fixed, and `dynaconv.deploy` folds them into the branch.",
    )
    algorithm: str = option("auto", "``auto`` or one of the family's algorithms.")

    def __post_init__(self) -> None:
        check_choice("context_norm", self.context_norm, self._context_norms)
        check_choice("algorithm", self.algorithm, self._algorithms)

    def to_dict(self) -> dict[str, Any]:
        """The fields as a plain dict; `from_dict` gives the same config back."""
        fields = dataclasses.asdict(self)
        return {name: value if (number := as_int(value)) is None else number for name, value in fields.items()}

    def changes(self) -> dict[str, Any]:
        """The fields whose values are not the defaults."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return {name: value for name, value in self.to_dict().items() if value != defaults[name]}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """A config of the given fields.

        Raises:
            ValueError: a key is no field of this class, or a value is out of range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in fields:
            check_choice(f"an option of {cls.__name__}", key, known)
        return cls(**fields)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BranchConfig(LayerConfig):
    """The options of a layer whose branch squeezes the context first."""

    reduction: int = option(16, "The branch is max(channels // reduction, min_hidden_channels) wide.")
    min_hidden_channels: int = option(4, "Least width of the branch.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_reduction(self.reduction)
        check_positive("min_hidden_channels", self.min_hidden_channels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionConfig(BranchConfig):
    """The options of a layer with attention over kernels."""

    num_kernels: int = option(4, "K, the number of kernels.")
    temperature: float = option(
        1.0,
        "Of a fresh layer, > 0: divides the logits of the attention; `set_temperature` changes it later. Saved in "
        "the state dict, never averaged with the weights.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("num_kernels", self.num_kernels)
        check_temperature(self.temperature)
