"""The model card: description, results, cost and use of a network. Unknown figures are left out."""

import dataclasses
from collections import Counter
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import nn

from dynaconv.conversion import conversion_of
from dynaconv.families import get_family
from dynaconv.hub.build import build_network
from dynaconv.hub.config import HubConfig
from dynaconv.measure.profile import profile
from dynaconv.train.factory import is_own_model, static_options, static_twin

MARK = "<!-- Written by dynaconv; saving the network again replaces this page for as long as this line is in it. -->"
_TEMPLATE = Path(__file__).with_name("card.md.jinja")


def make_card(network: nn.Module, config: HubConfig, *, repo_id: str | None, notes: str | None) -> ModelCard:
    """Write the card of a network.

    Args:
        network: The network, whose parameters and multiply-adds are counted.
        config: Its description.
        repo_id: Name of the repository in the code example; without it the example names a folder.
        notes: A paragraph by the author, in Markdown.
    """
    counts = sorted(Counter(entry["family"] for entry in conversion_of(network).values()).items())
    card: ModelCard = ModelCard.from_template(
        _metadata(config, [family for family, _ in counts], repo_id),
        template_path=str(_TEMPLATE),
        mark=MARK,
        config=config,
        name=_title(config),
        training=config.training or {},
        families=[(get_family(family), count) for family, count in counts],
        replaced=len(config.conversion or ()) == sum(count for _, count in counts),
        costs=measure_costs(network, config),
        repo_id=repo_id,
        where=repo_id or "path/to/this/folder",
        notes=notes,
    )
    return card


def _title(config: HubConfig) -> str:
    return config.model if config.conversion is None else f"{config.model}, made dynamic"


def _metadata(config: HubConfig, families: list[str], repo_id: str | None) -> ModelCardData:
    training = config.training or {}
    metrics = [("test_accuracy", "accuracy", "Accuracy"), ("test_top5", "top_5_accuracy", "Top-5 accuracy")]
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=training["data"],
            dataset_name=training["data"],
            dataset_split="test",
            metric_type=kind,
            metric_value=training[key],
            metric_name=name,
        )
        for key, kind, name in metrics[: 2 if config.num_classes > 5 else 1]
        if training.get("data") and key in training
    ]
    return ModelCardData(
        license=config.license,
        library_name="dynaconv",
        pipeline_tag="image-classification",
        tags=["dynamic-convolution", "image-classification", "pytorch", *families],
        # Only the results need a name.
        model_name=(repo_id or config.model).rpartition("/")[2] if results else None,
        eval_results=results or None,
    )


def measure_costs(network: nn.Module, config: HubConfig) -> list[tuple[str, int, int]]:
    """Return name, parameters and multiply-adds per image of a network, and of its static twin if there is one."""
    networks = {_title(config): network}
    if (twin := _static_twin(config)) is not None:
        networks[f"{twin.model}, its static twin"] = build_network(twin)
    size = (config.in_channels, config.image_size, config.image_size)
    profiles = {name: profile(each, size) for name, each in networks.items()}
    return [(name, counted.params, counted.macs) for name, counted in profiles.items()]


def _static_twin(config: HubConfig) -> HubConfig | None:
    if config.conversion is not None:
        return None if is_own_model(config.model) else dataclasses.replace(config, conversion=None)
    if (twin := static_twin(config.model)) is None:
        return None
    return dataclasses.replace(config, model=twin, model_options=static_options(config.model_options))
