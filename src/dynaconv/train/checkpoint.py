"""Saves and loads trained networks: safetensors files with the metadata to rebuild the network."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dynaconv.conversion.checkpoint_file import mismatches
from dynaconv.errors import CheckpointError, DynaconvError, counted
from dynaconv.files import replacing
from dynaconv.train.factory import create_network
from dynaconv.train.folders import BEST, CHECKPOINT_FOLDER, LAST

MODEL_FILE = "model.safetensors"
_METADATA_KEY = "dynaconv"
_SUFFIXES = (".safetensors", ".ckpt")
_REQUIRED = ("model", "num_classes", "in_channels", "class_names", "image_size", "mean", "std")


def save_trained(path: Path, model: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Write a network's weights and its metadata to one safetensors file, atomically.

    Args:
        path: The file to write.
        model: The network, on any device; its state dict is written.
        metadata: JSON values that `load_trained` needs to build the network again.

    Raises:
        CheckpointError: The file cannot be written, for example because the disk is full.
    """
    # Copies, because safetensors refuses tensors that share memory.
    state = {key: value.detach().cpu().clone().contiguous() for key, value in model.state_dict().items()}
    write_weights(path, state, {_METADATA_KEY: json.dumps(dict(metadata))})


def write_weights(path: Path, state: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a safetensors file, atomically.

    Args:
        path: The file to write.
        state: Tensors that share no memory.
        header: Further metadata of the file.

    Raises:
        CheckpointError: The file cannot be written, for example because the disk is full.
    """
    try:
        with replacing(path) as temporary:
            save_file(dict(state), temporary, metadata={**header, "format": "pt"})
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(f"cannot write {path}: {' '.join(reason.split()).rstrip('.')}.") from error


def load_trained(path: str | Path, *, model: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """Load a trained network in eval mode, on the CPU.

    Args:
        path: A run folder, a ``model.safetensors``, or a Lightning ``.ckpt`` of a run.
        model: Name of the model that the checkpoint must be of; by default any.

    Returns:
        The network and its metadata (``model``, ``model_options``, ``class_names``, ``image_size``, ``mean``, ..., and
        ``conversion`` for a network that was converted).

    Raises:
        CheckpointError: The checkpoint does not exist, is damaged, or is of another model.
    """
    file = find_checkpoint(Path(path).expanduser())
    state, metadata = _read_lightning(file) if file.suffix == ".ckpt" else _read_safetensors(file)
    if missing := [key for key in _REQUIRED if key not in metadata]:
        raise CheckpointError(
            f"the checkpoint {file} has no {missing[0]!r} in its metadata; it was not written by dynaconv."
        )
    names = metadata["class_names"]
    if not isinstance(names, list) or len(names) != metadata["num_classes"]:
        count = len(names) if isinstance(names, list) else "no"
        raise CheckpointError(
            f"the checkpoint {file} has {count} class_names for {metadata['num_classes']} classes; it was changed "
            f"after it was written, so use another checkpoint of the run."
        )
    if model is not None and metadata["model"] != model:
        raise CheckpointError(f"the checkpoint {file} is of the model {metadata['model']!r}, not of {model!r}.")
    try:
        network = create_network(
            metadata["model"],
            num_classes=metadata["num_classes"],
            in_channels=metadata["in_channels"],
            options=metadata.get("model_options"),
            conversion=metadata.get("conversion"),
        )
    except DynaconvError as error:
        raise CheckpointError(f"cannot build the network of the checkpoint {file}: {error}") from error
    load_state(network, state, f"the checkpoint {file}", str(metadata["model"]))
    return network.eval(), metadata


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint file at a path, which may be a run folder.

    In the folder of a finished run it is ``model.safetensors``, in others the best or else the last checkpoint.
    """
    if path.is_dir():
        candidates = [path / MODEL_FILE, *(path / CHECKPOINT_FOLDER / name for name in (BEST, LAST))]
        found = next((file for file in candidates if file.is_file()), None)
        if found is None:
            raise CheckpointError(f"the folder {path} has no {MODEL_FILE} and no checkpoint; pass a run folder.")
        return found
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}; pass a run folder, a .safetensors or a .ckpt file.")
    if path.suffix not in _SUFFIXES:
        raise CheckpointError(f"{path} is not a checkpoint; pass a run folder, a .safetensors or a .ckpt file.")
    return path


def holds_metadata(file: Path) -> bool:
    """Return whether a checkpoint file is one of a run, by its suffix and, for safetensors, its metadata."""
    if file.suffix != ".safetensors":
        return file.suffix in _SUFFIXES
    try:
        with safe_open(file, framework="pt") as opened:
            return _METADATA_KEY in (opened.metadata() or {})
    except (SafetensorError, OSError):
        return True  # `load_trained` says what is wrong


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = json.loads((opened.metadata() or {}).get(_METADATA_KEY, "null"))
            state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  # not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(file) from error
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{file} is a safetensors file that dynaconv did not write: it has no metadata.")
    return state, metadata


def read_lightning_checkpoint(file: Path) -> dict[str, Any]:
    """Read a ``.ckpt`` of a run, in which only tensors and plain values are allowed.

    Raises:
        CheckpointError: The file does not exist, is damaged, or is not a checkpoint of a dynaconv run.
    """
    if not file.is_file():
        raise CheckpointError(f"there is no checkpoint {file}.")
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    # For a file that is not a checkpoint, torch's unpickler may raise any exception.
    except Exception as error:
        raise _damaged(file) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(_METADATA_KEY), dict):
        raise CheckpointError(f"the checkpoint {file} was not written by a run of dynaconv: it has no metadata.")
    return checkpoint


def _damaged(file: Path) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint {file} is damaged, incomplete or not a {file.suffix} file of dynaconv; "
        f"use another checkpoint of the run, or train again."
    )


def _read_lightning(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    checkpoint = read_lightning_checkpoint(file)
    state = evaluated_state(checkpoint["state_dict"])
    return state, checkpoint[_METADATA_KEY]


def evaluated_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of the network in a module's state: that of the moving average if there is one."""
    prefix = "ema.module." if any(key.startswith("ema.module.") for key in state) else "model."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def load_state(network: nn.Module, state: Mapping[str, Tensor], source: str, name: str) -> None:
    """Load a state dict, which must fit the network exactly.

    Args:
        network: The network to load into.
        state: The weights.
        source, name: Names of the weights and of the network, for the message.

    Raises:
        CheckpointError: A tensor is missing, is unexpected or has another shape; nothing is loaded then.
    """
    if mismatched := mismatches(network, state):
        first = mismatched[0]
        raise CheckpointError(
            f"{source} does not fit {name}: {counted(len(mismatched), 'tensor')} cannot be loaded, the first is "
            f"{first.key!r} (checkpoint: {first.given}, model: {first.expected})."
        )
    network.load_state_dict(dict(state))
