"""Finds a network's files: in a folder on this machine, or in the cache of a repository of the Hub."""

from pathlib import Path

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from dynaconv import __version__
from dynaconv.errors import CheckpointError

# The HTTP client of huggingface_hub depends on its version. The client's errors are the bases of HfHubHTTPError.
CLIENT_ERRORS: tuple[type[BaseException], ...] = (OSError, *HfHubHTTPError.__bases__)

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


def fetch(
    name: str | Path,
    *,
    revision: str | None,
    cache_dir: str | Path | None,
    force_download: bool,
    local_files_only: bool,
    token: str | bool | None,
) -> Path:
    """Return the folder with ``config.json`` and ``model.safetensors``; only these files are downloaded.

    Args:
        name: A folder, or a repository ``user/name``.
        revision, cache_dir, force_download, local_files_only, token: As for `huggingface_hub.hf_hub_download`.

    Raises:
        CheckpointError: There is no such folder or repository, or the Hub cannot be reached and the cache lacks it.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(
            f"{name} is a file; give the folder that save_pretrained wrote, or a repository user/name."
        )
    text = str(name)
    if text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text:
        raise CheckpointError(
            f"there is no folder {text}; give one that save_pretrained wrote, or a repository user/name."
        )
    paths = [
        Path(_download(text, file, revision, cache_dir, force_download, local_files_only, token))
        for file in (CONFIG_FILE, WEIGHTS_FILE)
    ]
    return paths[0].parent


def _download(
    repo_id: str,
    filename: str,
    revision: str | None,
    cache_dir: str | Path | None,
    force_download: bool,
    local_files_only: bool,
    token: str | bool | None,
) -> str:
    where = repo_id if revision is None else f"{repo_id} at revision {revision!r}"
    try:
        return hf_hub_download(
            repo_id,
            filename,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
            library_name="dynaconv",
            library_version=__version__,
        )
    except HFValidationError as error:
        raise CheckpointError(f"{repo_id!r} is neither a folder nor a repository name such as user/name.") from error
    except GatedRepoError as error:
        raise CheckpointError(
            f"{where} is gated; ask for access on its page, then log in with `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no folder {repo_id} here and no repository {repo_id} on {constants.ENDPOINT}, or it is private; "
            f"check the name, or log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"the repository {repo_id} has no revision {revision!r}.") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise CheckpointError(_not_cached(where, filename, local_files_only)) from error
    except EntryNotFoundError as error:
        raise CheckpointError(
            f"the repository {where} holds no {filename}; save_pretrained writes one, and dynaconv reads no other file."
        ) from error
    except CLIENT_ERRORS as error:
        raise CheckpointError(f"downloading {filename} of {where} failed: {' '.join(str(error).split())}.") from error


def _not_cached(where: str, filename: str, local_files_only: bool) -> str:
    missing = f"{filename} of {where} is not in the cache"
    if local_files_only:
        return f"{missing}, and local_files_only=True forbids downloads; leave it out, or give a folder."
    if constants.HF_HUB_OFFLINE:
        return f"{missing}, and HF_HUB_OFFLINE=1 forbids downloads; unset it, or give a folder."
    return f"{missing}, and {constants.ENDPOINT} cannot be reached; check the network, or give a folder."
