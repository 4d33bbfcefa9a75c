"""Raises errors of the Hub's client as errors of dynaconv, in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from dynaconv.errors import CheckpointError

# Derived classes stand before their bases.
_REASONS: dict[type[BaseException], str] = {
    HFValidationError: "it is neither a repository name such as user/name nor a folder written by save_pretrained",
    GatedRepoError: "the repository is gated; ask for access on its page, then run `hf auth login`",
    RepositoryNotFoundError: "there is no such folder and no such repository on {hub}, or the repository is private; "
    "check the name, or run `hf auth login`",
    RevisionNotFoundError: "the repository has no such revision",
    LocalEntryNotFoundError: "it is not in the cache and {hub} was not reached; check the network, HF_HUB_OFFLINE and "
    "local_files_only, or give a folder",
    EntryNotFoundError: "the repository lacks config.json or model.safetensors, and dynaconv reads no other file",
    LocalTokenNotFoundError: "you are not logged in; run `hf auth login`, or pass token=...",
    OfflineModeIsEnabled: "HF_HUB_OFFLINE=1 forbids it; unset it",
    # The base of all errors of the HTTP library, which depends on the version of huggingface_hub.
    HfHubHTTPError.__bases__[0]: "{cause}; check the network, and run `hf auth login` with a token for {hub}",
    OSError: "{cause}",
}


@contextmanager
def hub_errors(action: str) -> Iterator[None]:
    """Raise errors of the Hub's client as `CheckpointError`: "cannot <action>: <reason>."."""
    try:
        yield
    except tuple(_REASONS) as error:
        reason = next(text for kind, text in _REASONS.items() if isinstance(error, kind))
        cause = " ".join(str(error).split()).rstrip(".")
        raise CheckpointError(f"cannot {action}: {reason.format(hub=constants.ENDPOINT, cause=cause)}.") from error
