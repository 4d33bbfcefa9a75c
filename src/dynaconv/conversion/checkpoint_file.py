"""Foreign checkpoints on disk or in memory: read without running code, and find the state dict inside."""

import argparse
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.errors import CheckpointError, listed, with_article

STATE_ENTRIES = ("state_dict", "model_state_dict", "model", "net")
AVERAGE_ENTRIES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
"""Moving averages of the weights, taken when a file holds nothing else."""
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_AVERAGE_COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """The state dict that a checkpoint holds.

    Attributes:
        name: Of the file, for messages.
        state: Its tensors, without what wrappers put in front of the names.
        entry: Path of entries that led to them, such as ``state_dict``; empty when the file is the state dict.
    """

    name: str
    state: dict[str, Tensor]
    entry: str


def read_checkpoint(source: str | os.PathLike[str] | Mapping[str, Any]) -> CheckpointFile:
    """Read a state dict from a file, or from what is in memory already. No code that a file holds is run.

    Args:
        source: A ``.safetensors`` file, any other file that `torch.save` wrote, or a mapping.

    Raises:
        CheckpointError: It is not there, damaged, holds code, or holds no state dict.
    """
    if isinstance(source, nn.Module):
        raise CheckpointError(f"got {with_article(type(source).__name__)}, not a checkpoint; pass its state_dict().")
    if isinstance(source, Mapping):
        return find_state(source, "the checkpoint")
    try:
        path = Path(source).expanduser()
    except TypeError:
        raise CheckpointError(
            f"a checkpoint is a path or a mapping of names to tensors; got {with_article(type(source).__name__)}."
        ) from None
    return find_state(read_file(path), str(path))


def read_file(path: Path) -> Any:
    """What a checkpoint file holds, on the CPU.

    Raises:
        CheckpointError: It is not there, damaged, or holds code.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the checkpoint file in it.")
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}.")
    if path.stat().st_size == 0:
        raise CheckpointError(f"the checkpoint {path} is empty; download it again.")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(f"reading {path} needs the package safetensors; pip install safetensors.") from error
    try:
        tensors: dict[str, Tensor] = load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path) from error
    return tensors


def _read_pickle(path: Path) -> Any:
    # Training scripts, timm's among them, store their arguments beside the weights: a Namespace is plain values.
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # on what is in the file; it is refused or read below
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise CheckpointError(f"the checkpoint {path} may not be read: {error.strerror}.") from error
    # On bytes that are no checkpoint, torch's unpickler raises whatever its machine stumbles over.
    except Exception as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if refused is None and "TorchScript" not in str(error):
            raise _damaged(path) from error
        held = "a TorchScript program" if refused is None else repr(refused[1])
        raise CheckpointError(
            f"the checkpoint {path} was refused: beside tensors and plain values it holds {held}, and reading that can "
            f"run code. Ask for a file of torch.save(model.state_dict(), ...); only if you trust its source, read it "
            f"with torch.load(..., weights_only=False) and pass the state dict."
        ) from error


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint {path} is damaged, incomplete or no checkpoint; download it again, or give a file that "
        f"torch.save wrote or a .safetensors file."
    )


def find_state(held: Any, name: str) -> CheckpointFile:
    """The state dict in what a checkpoint holds, beside whatever else it holds.

    Raises:
        CheckpointError: There is none.
    """
    entries: list[str] = []
    while isinstance(held, Mapping):
        inner = next(
            (e for e in (*STATE_ENTRIES, *AVERAGE_ENTRIES) if isinstance(held.get(e), Mapping | nn.Module)), ""
        )
        if not inner:
            break
        entries.append(inner)
        held = held[inner]
    where = f"{name}, entry {'.'.join(entries)!r}," if entries else name
    if isinstance(held, nn.Module):
        raise CheckpointError(f"{where} is a whole {type(held).__name__}; pass its state_dict().")
    if not isinstance(held, Mapping):
        raise CheckpointError(
            f"{where} holds {with_article(type(held).__name__)}, not a state dict of names and tensors."
        )
    state = {key: value for key, value in held.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not state:
        keys = [str(key) for key in held][:5]
        has = f"its entries are {listed(keys)}" if keys else "it is empty"
        raise CheckpointError(f"{where} holds no state dict of names and tensors; {has}.")
    return CheckpointFile(name=name, state=_unwrapped(state), entry=".".join(entries))


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state without the names that wrappers, such as DataParallel and torch.compile, put before every key."""
    while True:
        keys = [key for key in state if key != _AVERAGE_COUNTER]
        prefix = next((p for p in _WRAPPERS if keys and all(key.startswith(p) for key in keys)), None)
        if prefix is None:
            return state
        state = {key.removeprefix(prefix): state[key] for key in keys}
