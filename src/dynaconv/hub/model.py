"""A trained network with its description, as a folder or a repository of the Hugging Face Hub."""

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
    cpu_state,
    load_weights,
    read_weights,
    with_conversion,
)
from dynaconv.hub.card import MARK, make_card
from dynaconv.hub.config import HubConfig, read_config
from dynaconv.hub.describe import describe_network, load_run
from dynaconv.hub.fetch import CONFIG_FILE, WEIGHTS_FILE, fetch
from dynaconv.hub.images import image_transform, prepare_image, top_classes
from dynaconv.hub.push import full_name, has_custom_card, push_errors
from dynaconv.train.checkpoint import write_weights

CARD_FILE = "README.md"


class DynaconvModel(nn.Module, ModelHubMixin, library_name="dynaconv"):
    """A network with its class names and its image transform; saved as config.json, safetensors and a model card.

    Create one with `from_run`, `from_network` or `from_pretrained`.

    Args:
        network: The network.
        description: The description from which `from_pretrained` rebuilds the network.

    Attributes:
        network: The network, as `timm.create_model` returns it.
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
        """Load the network of a training run, in eval mode.

        Args:
            path: A run folder, or one of its checkpoints.
            license: Identifier of the weights' licence, such as ``"apache-2.0"``; by default timm's entry for the
                network.

        Raises:
            CheckpointError: The checkpoint does not exist or is damaged.
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
        """Wrap a timm network, one of dynaconv's or any other, converted or not.

        Arguments that are left out are read from the attributes that timm sets on the network.

        Args:
            network: The network; it is not copied.
            model: Its timm name; for a converted network, the name of the static one.
            model_options: Further arguments that were passed to `timm.create_model`.
            class_names: One name per class.
            image_size: Side length of the input in pixels.
            mean, std: Mean and standard deviation of pixel values in [0, 1], one per channel.
            license: Identifier of the weights' licence, such as ``"apache-2.0"``.

        Raises:
            CheckpointError: The network lacks an attribute for an argument that is left out, or it cannot be rebuilt.
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
        check_rebuilds(network, config, cpu_state(network))
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
        """Load a network, in eval mode and on the CPU.

        Args:
            pretrained_model_name_or_path: A folder written by `save_pretrained`, or a repository ``user/name``.
            force_download, token, cache_dir, local_files_only, revision: As for `huggingface_hub.hf_hub_download`.

        Raises:
            CheckpointError: The folder or repository does not exist, cannot be reached or is damaged, or its config and
                weights do not fit.
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
        """One name per class; None if unknown."""
        return self.description.class_names

    @property
    def transform(self) -> Callable[[Any], Tensor]:
        """The transform from a PIL image (mode L for one channel, else RGB) to the network's input, ``(C, H, W)``."""
        return image_transform(self.description)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of normalised images."""
        logits: Tensor = self.network(x)
        return logits

    def classify(self, image: Any, *, top: int = 5) -> list[tuple[str, float]]:
        """Return the most likely classes of one image with their probabilities, the most likely first.

        Args:
            image: A path or a PIL image.
            top: Number of classes.

        Raises:
            DataError: The file does not exist or is not an image.
        """
        return top_classes(self.network, self.description, prepare_image(self.description, image), top)

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

        The method first checks that a network rebuilt from these files computes the same outputs. A ``README.md``
        without dynaconv's mark is not overwritten.

        Args:
            save_directory: The folder; it is created if it does not exist.
            config: Not supported, because the network has its own description.
            repo_id: Name of the repository, for the card and for ``push_to_hub``.
            push_to_hub: Also upload the files. Further keywords are passed to `push_to_hub`.
            model_card_kwargs: Arguments of `generate_model_card`, such as ``{"notes": "..."}``.

        Returns:
            The commit's address if the files were uploaded, else None.

        Raises:
            CheckpointError: The folder cannot be written, or the network cannot be rebuilt from its description.
        """
        if config is not None:
            raise TypeError("`config` is not supported: the network has its own description; leave `config` out.")
        folder = Path(save_directory).expanduser()
        given = dict(model_card_kwargs or {})
        if repo_id is not None:
            given.setdefault("repo_id", repo_id)
        check_rebuilds(self.network, self.description, cpu_state(self.network))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            card = folder / CARD_FILE
            self._save_pretrained(folder)
            if not card.is_file() or MARK in card.read_text(encoding="utf-8"):
                write_text(card, str(self.generate_model_card(**given)))
        except (FileExistsError, NotADirectoryError) as error:
            raise CheckpointError(f"{folder} is a file or inside a file; give a folder.") from error
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
        """Upload the files of `save_pretrained` in one commit. The repository is created if it does not exist.

        A ``README.md`` in the repository without dynaconv's mark is not overwritten.

        Args:
            repo_id: ``user/name``, or ``name`` for the logged-in user.
            config: Not supported, because the network has its own description.
            commit_message, private, token, branch, create_pr, allow_patterns, ignore_patterns, delete_patterns: As for
                `huggingface_hub.ModelHubMixin.push_to_hub`.
            model_card_kwargs: Arguments of `generate_model_card`, such as ``{"notes": "..."}``.

        Returns:
            The commit's address.

        Raises:
            CheckpointError: The Hub cannot be reached or refuses the upload, or the network cannot be rebuilt from its
                description; nothing is uploaded then.
        """
        if config is not None:
            raise TypeError("`config` is not supported: the network has its own description; leave `config` out.")
        api = HfApi(token=token, library_name="dynaconv", library_version=__version__)
        with push_errors(repo_id), TemporaryDirectory() as folder:
            repo_id = full_name(api, repo_id)
            self.save_pretrained(folder, model_card_kwargs={"repo_id": repo_id, **(model_card_kwargs or {})})
            api.create_repo(repo_id, private=private, exist_ok=True)
            ignored = [ignore_patterns] if isinstance(ignore_patterns, str) else list(ignore_patterns or [])
            if has_custom_card(api, repo_id, branch, MARK):
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
        write_weights(save_directory / WEIGHTS_FILE, cpu_state(self.network), {})
        write_json(save_directory / CONFIG_FILE, self.description.to_json())

    def generate_model_card(self, *, repo_id: str | None = None, notes: str | None = None) -> ModelCard:
        """Return the model card: results, cost compared with the static twin, use, preprocessing, training, citation.

        Args:
            repo_id: Name of the repository, for the code example.
            notes: A paragraph of your own in Markdown: intended use, limits, where the weights come from.
        """
        return make_card(self.network, self.description, repo_id=repo_id, notes=notes)
