"""A trained network with all that is needed to use it, as a folder or a repository of the Hugging Face Hub."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from huggingface_hub import HfApi, ModelCard, ModelHubMixin
from torch import Tensor, nn

from dynaconv import __version__
from dynaconv.errors import CheckpointError
from dynaconv.files import write_json, write_text
from dynaconv.hub.build import (
    build_network,
    check_rebuilds,
    load_weights,
    read_weights,
    with_conversion,
    written_state,
)
from dynaconv.hub.card import MARK, make_card
from dynaconv.hub.config import HubConfig, read_config
from dynaconv.hub.describe import describe_network, load_run
from dynaconv.hub.fetch import CONFIG_FILE, WEIGHTS_FILE, fetch
from dynaconv.hub.images import image_transform, likeliest, prepared
from dynaconv.hub.push import full_name, has_own_card, push_errors
from dynaconv.train.checkpoint import write_weights

CARD_FILE = "README.md"


class DynaconvModel(nn.Module, ModelHubMixin, library_name="dynaconv"):
    """A network, its classes and how images are prepared for it; saved as config.json, safetensors and a model card.

    Make one with `from_run`, `from_network` or `from_pretrained`.

    Args:
        network: The network.
        description: What `from_pretrained` needs to build it again.

    Attributes:
        network: The network, as `timm.create_model` gives it.
        description: Its `HubConfig`.

    Shape:
        ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``.
    """

    def __init__(self, network: nn.Module, description: HubConfig) -> None:
        super().__init__()
        self.network = network
        self.description = description

    @classmethod
    def from_run(cls, path: str | Path, *, license: str | None = None) -> Self:
        """Take the network that a training run left, in eval mode.

        Args:
            path: A run folder, or one of its checkpoints.
            license: Identifier of the weights' licence, such as ``"apache-2.0"``; by default what timm says of the
                network.

        Raises:
            CheckpointError: There is no checkpoint, or it is damaged.
        """
        return cls(*load_run(path, license))

    @classmethod
    def from_network(
        cls,
        network: nn.Module,
        *,
        model: str | None = None,
        model_options: Mapping[str, Any] | None = None,
        class_names: Sequence[str] | None = None,
        image_size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        license: str | None = None,
    ) -> Self:
        """Take a timm network, one of dynaconv's or any other, converted or not.

        What is left out is what timm says of the network.

        Args:
            network: The network; it is kept, not copied.
            model: Its timm name; of a converted network the name of the static one.
            model_options: Further arguments that `timm.create_model` was given.
            class_names: One name a class.
            image_size: Side length of the input.
            mean, std: Of the pixel values in [0, 1], one a channel.
            license: Identifier of the weights' licence, such as ``"apache-2.0"``.

        Raises:
            CheckpointError: The network does not say what is left out, or cannot be built again from it.
        """
        config = describe_network(
            network,
            model=model,
            model_options=model_options,
            class_names=class_names,
            image_size=image_size,
            mean=mean,
            std=std,
            license=license,
        )
        config = with_conversion(config, network)
        check_rebuilds(network, config, written_state(network))
        return cls(network, config)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # takes no arguments for the constructor
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> Self:
        """Load a network in eval mode, on the CPU.

        Args:
            pretrained_model_name_or_path: A folder that `save_pretrained` wrote, or a repository ``user/name``.
            force_download, token, cache_dir, local_files_only, revision: As everywhere in huggingface_hub.

        Raises:
            CheckpointError: It is not there, cannot be reached, is damaged, or config and weights do not fit.
        """
        folder = fetch(
            pretrained_model_name_or_path,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        config = read_config(folder / CONFIG_FILE)
        state = read_weights(folder / WEIGHTS_FILE)
        network = build_network(config)
        load_weights(network, state, str(folder / WEIGHTS_FILE))
        return cls(network.eval(), config).eval()

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """One name a class; None when they are not known."""
        return self.description.class_names

    @property
    def transform(self) -> Callable[[Any], Tensor]:
        """What turns a PIL image (mode L for one channel, else RGB) into the network's input, ``(C, H, W)``."""
        return image_transform(self.description)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of normalised images."""
        logits: Tensor = self.network(x)
        return logits

    def classify(self, image: Any, *, top: int = 5) -> list[tuple[str, float]]:
        """The likeliest classes of one image with their probabilities, the likeliest first.

        Args:
            image: A path or a PIL image.
            top: How many classes.

        Raises:
            DataError: The file is missing or is not an image.
        """
        return likeliest(self.network, self.description, prepared(self.description, image), top)

    def save_pretrained(  # type: ignore[override]  # the mixin takes any further keyword for push_to_hub
        self,
        save_directory: str | Path,
        *,
        config: None = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write ``config.json``, ``model.safetensors`` and ``README.md`` into a folder.

        Before anything is written it is checked that a network built from them computes what this one does. A
        ``README.md`` that dynaconv did not write, or whose mark was taken out, stays.

        Args:
            save_directory: The folder; it is made when it is not there.
            config: Not taken: the description is the network's own.
            repo_id: The repository's name, for the card and for ``push_to_hub``.
            push_to_hub: Also upload; further keywords are those of `push_to_hub`.
            model_card_kwargs: Arguments of `generate_model_card`, such as ``{"notes": "..."}``.

        Returns:
            The commit's address when it was uploaded, else None.

        Raises:
            CheckpointError: The folder cannot be written, or the network cannot be built again from its description.
        """
        if config is not None:
            raise TypeError("`config` cannot be given: the description is the network's own.")
        folder = Path(save_directory).expanduser()
        given = dict(model_card_kwargs or {})
        if repo_id is not None:
            given.setdefault("repo_id", repo_id)
        check_rebuilds(self.network, self.description, written_state(self.network))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            card = folder / CARD_FILE
            self._save_pretrained(folder)
            if not card.is_file() or MARK in card.read_text(encoding="utf-8"):
                write_text(card, str(self.generate_model_card(**given)))
        except (FileExistsError, NotADirectoryError) as error:
            raise CheckpointError(f"{folder} is a file or lies in one; give a folder.") from error
        except OSError as error:
            raise CheckpointError(f"cannot write {folder}: {error.strerror or error}.") from error
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or folder.name, model_card_kwargs=model_card_kwargs, **push_to_hub_kwargs)

    def push_to_hub(  # type: ignore[override]  # takes no config
        self,
        repo_id: str,
        *,
        config: None = None,
        commit_message: str = "Upload a network of dynaconv",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        allow_patterns: list[str] | str | None = None,
        ignore_patterns: list[str] | str | None = None,
        delete_patterns: list[str] | str | None = None,
        model_card_kwargs: dict[str, Any] | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes, in one commit; the repository is made when it is not there.

        A ``README.md`` in the repository that dynaconv did not write, or whose mark was taken out, stays.

        Args:
            repo_id: ``user/name``, or ``name`` for whoever is logged in.
            config: Not taken: the description is the network's own.
            commit_message, private, token, branch, create_pr, allow_patterns, ignore_patterns, delete_patterns: As for
                `huggingface_hub.ModelHubMixin.push_to_hub`.
            model_card_kwargs: Arguments of `generate_model_card`, such as ``{"notes": "..."}``.

        Returns:
            The commit's address.

        Raises:
            CheckpointError: The Hub cannot be reached or refuses, or the network cannot be built again from its
                description; then nothing is uploaded.
        """
        if config is not None:
            raise TypeError("`config` cannot be given: the description is the network's own.")
        api = HfApi(token=token, library_name="dynaconv", library_version=__version__)
        with push_errors(repo_id), TemporaryDirectory() as folder:
            repo_id = full_name(api, repo_id)
            self.save_pretrained(folder, model_card_kwargs={"repo_id": repo_id, **(model_card_kwargs or {})})
            api.create_repo(repo_id, private=private, exist_ok=True)
            ignored = [ignore_patterns] if isinstance(ignore_patterns, str) else list(ignore_patterns or [])
            if has_own_card(api, repo_id, branch, MARK):
                ignored.append(CARD_FILE)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message,
                revision=branch,
                create_pr=create_pr,
                allow_patterns=allow_patterns,
                ignore_patterns=ignored or None,
                delete_patterns=delete_patterns,
            )
        return str(commit)

    def _save_pretrained(self, save_directory: Path) -> None:
        write_weights(save_directory / WEIGHTS_FILE, written_state(self.network), {})
        write_json(save_directory / CONFIG_FILE, self.description.to_json())

    def generate_model_card(self, *, repo_id: str | None = None, notes: str | None = None) -> ModelCard:
        """The model card: results, cost beside the static twin, use, preprocessing, training, citation.

        Args:
            repo_id: The repository's name, for the code that loads it.
            notes: A paragraph of your own in Markdown: intended use, limits, where the weights come from.
        """
        return make_card(self.network, self.description, repo_id=repo_id, notes=notes)
