"""Trained networks as folders and Hugging Face Hub repositories. Needs the ``hub`` extra."""

try:
    import huggingface_hub  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f'dynaconv.hub needs {error.name}, which is not installed; pip install "dynaconv[hub]".', name=error.name
    ) from error

from dynaconv.hub.config import HubConfig
from dynaconv.hub.model import DynaconvModel

__all__ = ["DynaconvModel", "HubConfig"]
