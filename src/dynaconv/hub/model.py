"""A trained network with its description, as a folder or a repository of the Hugging Face Hub."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import HfApi, ModelCard, ModelHubMixin, hf_hub_download
from PIL import Image
from torch import Tensor, nn

from dynaconv.conversion.checkpoint_file import read_file
from dynaconv.conversion.example import eval_mode
from dynaconv.errors import CheckpointError
from dynaconv.files import write_json, write_text
from dynaconv.hub.build import build_network, check_rebuilds
from dynaconv.hub.card import MARK, make_card
from dynaconv.hub.config import HubConfig
from dynaconv.hub.describe import describe_network, load_run
from dynaconv.hub.errors import hub_errors
from dynaconv.hub.images import prepare_image
from dynaconv.train.checkpoint import load_state, save_trained
from dynaconv.train.predict import input_transform

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"


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
        given = {"architecture": model, "label_names": class_names, "mean": mean, "std": std, "license": license}
        description = describe_network(network, given, model_options, image_size)
        check_rebuilds(network, description)
        return cls(network, description)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Self:
        """Load a network, in eval mode and on the CPU.

        Args:
            pretrained_model_name_or_path: A folder written by `save_pretrained`, or a repository ``user/name``.
            **options: ``revision``, ``cache_dir``, ``token``, ``force_download`` and ``local_files_only`` of
                `huggingface_hub.hf_hub_download`.

        Raises:
            CheckpointError: The folder or repository does not exist, cannot be reached or is damaged, or its config and
                weights do not fit.
        """
        name = str(Path(pretrained_model_name_or_path).expanduser())
        revision = f" at revision {options['revision']}" if options.get("revision") else ""
        try:
            with hub_errors(f"load {name}{revision}"):
                return super().from_pretrained(name, **options)
        # The mixin reads the configuration with json.load, and takes it for a dictionary.
        except (AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{CONFIG_FILE} of {name} cannot be read as a JSON object: {error}.") from error

    @classmethod
    def _from_pretrained(cls, *, model_id: str, config: Any = None, **download: Any) -> Self:
        folder = Path(model_id)
        file = folder / WEIGHTS_FILE if folder.is_dir() else Path(hf_hub_download(model_id, WEIGHTS_FILE, **download))
        state = read_file(file)
        description = HubConfig.from_json(config, file.with_name(CONFIG_FILE))
        network = build_network(description)
        load_state(network, state, str(file), description.model)
        return cls(network, description).eval()

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """One name per class; None if unknown."""
        return self.description.class_names

    @property
    def transform(self) -> Callable[[Image.Image], Tensor]:
        """The transform from a PIL image (mode L for one channel, else RGB) to the network's input, ``(C, H, W)``."""
        return input_transform(vars(self.description))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of normalised images."""
        logits: Tensor = self.network(x)
        return logits

    @torch.inference_mode()
    def classify(self, image: str | Path | Image.Image, *, top: int = 5) -> list[tuple[str, float]]:
        """Return the most likely classes of one image with their probabilities, the most likely first.

        The network runs in eval mode; its mode is restored afterwards.

        Args:
            image: A path or a PIL image.
            top: Number of classes.

        Raises:
            DataError: The file does not exist or is not an image.
        """
        parameter = next(self.parameters())
        x = prepare_image(self.description, image).to(parameter.device, parameter.dtype)
        names = self.class_names or tuple(map(str, range(self.description.num_classes)))
        with eval_mode(self):
            values, indices = self(x).float().softmax(1)[0].topk(min(top, len(names)))
        return [(names[index], value) for index, value in zip(indices.tolist(), values.tolist(), strict=True)]

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
            push_to_hub: Also upload the files, with ``push_to_hub_kwargs``.
            model_card_kwargs: Arguments of `generate_model_card`, such as ``{"notes": "..."}``.

        Returns:
            The commit's address if the files were uploaded, else None.

        Raises:
            CheckpointError: The folder cannot be written, or the network cannot be rebuilt from its description.
        """
        if config is not None:
            raise TypeError("`config` is not supported: the network has its own description; leave `config` out.")
        check_rebuilds(self.network, self.description)
        folder = Path(save_directory).expanduser()
        card = folder / CARD_FILE
        # The mixin's method removes config.json before it writes the weights; a full disk would lose it.
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_trained(folder / WEIGHTS_FILE, self.network, {})
            write_json(folder / CONFIG_FILE, self.description.to_json())
            if not card.is_file() or MARK in card.read_text(encoding="utf-8"):
                write_text(card, str(self.generate_model_card(**{"repo_id": repo_id, **(model_card_kwargs or {})})))
        except OSError as error:
            raise CheckpointError(f"cannot write the folder {folder}: {error.strerror or error}.") from error
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or folder.name, model_card_kwargs=model_card_kwargs, **push_to_hub_kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        token: str | None = None,
        branch: str | None = None,
        ignore_patterns: list[str] | str | None = None,
        model_card_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> str:
        """Upload the files of `save_pretrained` in one commit. The repository is created if it does not exist.

        A ``README.md`` in the repository without dynaconv's mark is not overwritten.

        Args:
            repo_id: ``user/name``, or ``name`` for the logged-in user.
            token, branch, ignore_patterns, **options: As for `huggingface_hub.ModelHubMixin.push_to_hub`.
            model_card_kwargs: Arguments of `generate_model_card`, such as ``{"notes": "..."}``.

        Returns:
            The commit's address.

        Raises:
            CheckpointError: The Hub cannot be reached or refuses the upload, or the network cannot be rebuilt from its
                description; nothing is uploaded then.
        """
        # The mixin creates the repository before it calls save_pretrained.
        check_rebuilds(self.network, self.description)
        ignored = [ignore_patterns] if isinstance(ignore_patterns, str) else list(ignore_patterns or [])
        with hub_errors(f"upload {repo_id}"):
            api = HfApi(token=token)
            repo_id = repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"
            if api.file_exists(repo_id, CARD_FILE, revision=branch):
                page = api.hf_hub_download(repo_id, CARD_FILE, revision=branch)
                ignored += [] if MARK in Path(page).read_text(encoding="utf-8") else [CARD_FILE]
            commit = super().push_to_hub(
                repo_id,
                token=token,
                branch=branch,
                ignore_patterns=ignored,
                model_card_kwargs={"repo_id": repo_id, **(model_card_kwargs or {})},
                **options,
            )
        return str(commit)

    def generate_model_card(self, *, repo_id: str | None = None, notes: str | None = None) -> ModelCard:
        """Return the model card: results, cost compared with the static twin, use, preprocessing, training, citation.

        Args:
            repo_id: Name of the repository, for the code example.
            notes: A paragraph of your own in Markdown: intended use, limits, where the weights come from.
        """
        return make_card(self.network, self.description, repo_id=repo_id, notes=notes)
