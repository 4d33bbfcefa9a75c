"""What every family's config has in common."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from dynaconv.layers._checks import as_int, check_choice


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """The options of a dynamic layer: the keyword-only arguments of its constructor, checked.

    Every family has a subclass with its options as fields; each field has the default of the constructor.
    """

    algorithm: str = "auto"
    """``auto`` or one of the family's algorithms."""

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
