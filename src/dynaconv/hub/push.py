"""From a folder to a repository of the Hub, and what can go wrong on the way as one sentence."""

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
    """Raise what talking to the Hub raises as `CheckpointError`."""
    start = f"cannot upload to {repo_id}"
    try:
        yield
    except HFValidationError as error:
        raise CheckpointError(f"{repo_id!r} is no repository's name; it is user/name. {error}") from error
    except LocalTokenNotFoundError as error:
        raise CheckpointError(f"{start}: you are not logged in; run `hf auth login`, or pass token=....") from error
    except OfflineModeIsEnabled as error:
        raise CheckpointError(f"{start}: HF_HUB_OFFLINE=1 forbids it; unset it.") from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{start}: there is no such branch; make it on {constants.ENDPOINT} first.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = (
            "; run `hf auth login` with a token that may write there, or pass token=..." if status in (401, 403) else ""
        )
        raise CheckpointError(f"{start}: {' '.join(str(error).split()).rstrip('.')}{hint}.") from error
    except CLIENT_ERRORS as error:
        raise CheckpointError(
            f"{start}: {constants.ENDPOINT} cannot be reached ({error}); check the network."
        ) from error


def full_name(api: HfApi, repo_id: str) -> str:
    """A repository's name with its owner; by default that is who is logged in."""
    return repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"


def has_own_card(api: HfApi, repo_id: str, branch: str | None, mark: str) -> bool:
    """Whether a repository has a README.md that dynaconv did not write."""
    if not api.file_exists(repo_id, "README.md", revision=branch):
        return False
    page = api.hf_hub_download(repo_id, "README.md", revision=branch, force_download=True)
    return mark not in Path(page).read_text(encoding="utf-8")
