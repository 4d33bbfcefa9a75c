"""Copies of models."""

import copy

from torch import nn

from dynaconv.errors import ConversionError


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of a model.

    Raises:
        ConversionError: The model holds an object that cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ConversionError(
            f"the model cannot be copied ({' '.join(str(error).split()).rstrip('.')}); pass inplace=True to change it."
        ) from error
