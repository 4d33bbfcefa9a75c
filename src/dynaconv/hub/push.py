"""Helpers to upload a folder to a repository of the Hub, with each error as one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)

from dynaconv.errors import CheckpointError
from dynaconv.hub.fetch import CLIENT_ERRORS


@contextmanager
def push_errors(repo_id: str) -> Iterator[None]:
    """Raise errors of the Hub client as `CheckpointError`."""
    failure = f"cannot upload to {repo_id}"
    try:
        yield
    except HFValidationError as error:
        raise CheckpointError(f"{repo_id!r} is not a repository name such as user/name. {error}") from error
    except LocalTokenNotFoundError as error:
        raise CheckpointError(f"{failure}: you are not logged in; run `hf auth login`, or pass token=....") from error
    except OfflineModeIsEnabled as error:
        raise CheckpointError(f"{failure}: HF_HUB_OFFLINE=1 forbids uploads; unset it.") from error
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"{failure}: the branch does not exist; create it on {constants.ENDPOINT} first."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = (
            "; run `hf auth login` with a token that has write access, or pass token=..."
            if status in (401, 403)
            else ""
        )
        raise CheckpointError(f"{failure}: {' '.join(str(error).split()).rstrip('.')}{hint}.") from error
    except CLIENT_ERRORS as error:
        raise CheckpointError(
            f"{failure}: {constants.ENDPOINT} cannot be reached ({error}); check the network."
        ) from error


def full_name(api: HfApi, repo_id: str) -> str:
    """Return a repository's name with its owner, by default the logged-in user."""
    return repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"


def has_custom_card(api: HfApi, repo_id: str, branch: str | None, mark: str) -> bool:
    """Whether a repository has a README.md without dynaconv's mark."""
    if not api.file_exists(repo_id, "README.md", revision=branch):
        return False
    page = api.hf_hub_download(repo_id, "README.md", revision=branch, force_download=True)
    return mark not in Path(page).read_text(encoding="utf-8")
