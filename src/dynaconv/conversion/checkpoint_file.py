"""Reads state dicts from checkpoints of other projects, on disk or in memory, without running code from the file."""

import argparse
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dynaconv.errors import CheckpointError, listed, with_article

STATE_ENTRIES = ("state_dict", "model_state_dict", "model", "net")
AVERAGE_ENTRIES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
"""Entries with moving averages of the weights, used only if there is none of `STATE_ENTRIES`."""
_WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.")
_AVERAGE_COUNTER = "n_averaged"
"""Buffer of torch.optim.swa_utils.AveragedModel, outside the averaged model."""


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """The state dict of a checkpoint.

    Attributes:
        name: Name of the file, for messages.
        state: The tensors; key prefixes added by wrappers are removed.
        entry: Dotted path of the entry that holds the tensors, such as ``state_dict``; empty if the file is the state
            dict.
    """

    name: str
    state: dict[str, Tensor]
    entry: str


def read_checkpoint(source: str | os.PathLike[str] | Mapping[str, Any]) -> CheckpointFile:
    """Read a state dict from a file or from a mapping in memory. Code in a file is never run.

    Args:
        source: A ``.safetensors`` file, any other file written by `torch.save`, or a mapping.

    Raises:
        CheckpointError: The file does not exist, is damaged, holds code, or holds no state dict.
    """
    if isinstance(source, nn.Module):
        raise CheckpointError(f"got {with_article(type(source).__name__)}, not a checkpoint; pass its state_dict().")
    if isinstance(source, Mapping):
        return find_state(source, "the checkpoint")
    try:
        path = Path(source).expanduser()
    except TypeError:
        raise CheckpointError(
            f"a checkpoint must be a path or a mapping of names to tensors; got {with_article(type(source).__name__)}."
        ) from None
    return find_state(read_file(path), str(path))


def read_file(path: Path) -> Any:
    """Return the content of a checkpoint file, with tensors on the CPU.

    Raises:
        CheckpointError: The file does not exist, is damaged, or holds code.
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
    # Many training scripts, timm's included, store their arguments with the weights, and a Namespace runs no code.
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            # Warnings about the content of the file, which is either read or refused.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read: {error.strerror}.") from error
    # On bytes that are not a checkpoint, torch's unpickler can raise any exception.
    except Exception as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if refused is None and "TorchScript" not in str(error):
            raise _damaged(path) from error
        unsafe = "a TorchScript program" if refused is None else repr(refused[1])
        raise CheckpointError(
            f"the checkpoint {path} was refused: besides tensors and plain values it holds {unsafe}, and loading that "
            f"can run code. Ask for a file written by torch.save(model.state_dict(), ...); only if you trust its "
            f"source, read it with torch.load(..., weights_only=False) and pass the state dict."
        ) from error


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint {path} is damaged, incomplete or no checkpoint; download it again, or give a file "
        f"written by torch.save or a .safetensors file."
    )


def find_state(content: Any, name: str) -> CheckpointFile:
    """Find the state dict in the content of a checkpoint, which may hold other entries too.

    Raises:
        CheckpointError: The content holds no state dict.
    """
    entries: list[str] = []
    while isinstance(content, Mapping):
        inner = next(
            (e for e in (*STATE_ENTRIES, *AVERAGE_ENTRIES) if isinstance(content.get(e), Mapping | nn.Module)), ""
        )
        if not inner:
            break
        entries.append(inner)
        content = content[inner]
    where = f"{name}, entry {'.'.join(entries)!r}," if entries else name
    if isinstance(content, nn.Module):
        kind = with_article(type(content).__name__)
        raise CheckpointError(f"{where} is {kind}, not a state dict; pass its state_dict().")
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{where} holds {with_article(type(content).__name__)}, not a state dict of names and tensors."
        )
    state = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not state:
        keys = [str(key) for key in content][:5]
        has = f"its entries are {listed(keys)}" if keys else "it is empty"
        raise CheckpointError(f"{where} holds no state dict of names and tensors; {has}.")
    return CheckpointFile(name=name, state=_strip_wrapper_prefixes(state), entry=".".join(entries))


def _strip_wrapper_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that wrappers, such as DataParallel and torch.compile, add to every key."""
    while True:
        keys = [key for key in state if key != _AVERAGE_COUNTER]
        prefix = next((p for p in _WRAPPER_PREFIXES if keys and all(key.startswith(p) for key in keys)), None)
        if prefix is None:
            return state
        state = {key.removeprefix(prefix): state[key] for key in keys}


class Mismatch(NamedTuple):
    """A tensor that keeps a state dict from fitting a network, with both shapes; ``"nothing"`` if there is none."""

    key: str
    given: tuple[int, ...] | str
    expected: tuple[int, ...] | str


def mismatches(network: nn.Module, state: Mapping[str, Tensor]) -> list[Mismatch]:
    """Return the tensors that are missing from ``state``, have another shape in it, or are not part of the network."""
    own = network.state_dict()
    keys = [key for key in own if key not in state or state[key].shape != own[key].shape]
    keys += [key for key in state if key not in own]
    return [
        Mismatch(key, *(tuple(tensors[key].shape) if key in tensors else "nothing" for tensors in (state, own)))
        for key in keys
    ]
