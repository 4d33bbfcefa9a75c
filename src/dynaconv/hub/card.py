"""The model card: description, results, cost and use of a network. Unknown figures are left out."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import nn

from dynaconv.conversion import conversion_of
from dynaconv.families import get_family
from dynaconv.hub.config import SMALL, HubConfig
from dynaconv.hub.cost import Cost, measure_costs

MARK = "<!-- Written by dynaconv; saving the network again replaces this page for as long as this line is in it. -->"
_MOST_CLASSES_LISTED = 30


def make_card(network: nn.Module, config: HubConfig, *, repo_id: str | None, notes: str | None) -> ModelCard:
    """Write the card of a network.

    Args:
        network: The network, whose parameters and multiply-adds are counted.
        config: Its description.
        repo_id: Name of the repository in the code example; without it the example names a folder.
        notes: A paragraph by the author, in Markdown.
    """
    families = Counter(entry["family"] for entry in conversion_of(network).values())
    sections = [
        MARK,
        f"# {_title(config)}",
        _summary(config, families),
        *([notes.strip()] if notes else []),
        *_results(config.training or {}, config.num_classes),
        _cost(config, measure_costs(network, config)),
        _use(config, repo_id or "path/to/this/folder"),
        _preprocessing(config),
        *_training(config.training or {}),
        *_citation(families),
    ]
    metadata = _metadata(config, families, repo_id).to_yaml()
    return ModelCard(f"---\n{metadata}\n---\n\n" + "\n\n".join(sections) + "\n", ignore_metadata_errors=False)


def _title(config: HubConfig) -> str:
    data = (config.training or {}).get("data")
    name = config.model if config.conversion is None else f"{config.model}, made dynamic"
    return f"{name}, trained on {data}" if data else name


def _metadata(config: HubConfig, families: Counter[str], repo_id: str | None) -> ModelCardData:
    training = config.training or {}
    data = training.get("data")
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=data,
            dataset_name=data,
            dataset_split="test",
            metric_type=kind,
            metric_value=training[key],
            metric_name=name,
        )
        for key, kind, name in (
            ("test_accuracy", "accuracy", "Accuracy"),
            ("test_top5", "top_5_accuracy", "Top-5 accuracy"),
        )
        if data and key in training and (key != "test_top5" or config.num_classes > 5)
    ]
    return ModelCardData(
        license=config.license,
        library_name="dynaconv",
        pipeline_tag="image-classification",
        tags=["dynamic-convolution", "image-classification", "pytorch", *sorted(families)],
        # Only the model-index needs a name, and a card without results has none.
        model_name=(repo_id or config.model).rpartition("/")[2] if results else None,
        eval_results=results or None,
    )


def _summary(config: HubConfig, families: Counter[str]) -> str:
    classes = f"An image classifier with {config.num_classes:,} classes"
    if not families:
        text = f"{classes}: timm's `{config.model}`. None of its convolutions is dynamic."
    else:
        layers = " and ".join(
            f"{count} layers of {family.title}, [arXiv:{family.arxiv}](https://arxiv.org/abs/{family.arxiv})"
            for family, count in ((get_family(name), count) for name, count in sorted(families.items()))
        )
        intro = f"{classes}: the timm network `{config.model}`"
        replaced = config.conversion is not None and len(config.conversion) == families.total()
        verb = "in which convolutions were replaced by" if replaced else "with"
        text = f"{intro} {verb} {layers}. Their kernels depend on the input."
    if config.class_names and config.num_classes <= _MOST_CLASSES_LISTED:
        text += f"\n\nClasses: {', '.join(config.class_names)}."
    return text


def _results(training: dict[str, Any], num_classes: int) -> list[str]:
    rows = []
    images = training.get("test_images")
    on = f"{images:,} test images" if images else "test images"
    if "test_accuracy" in training:
        rows.append((f"accuracy on {on}", f"{training['test_accuracy']:.2%}"))
    if "test_top5" in training and num_classes > 5:
        rows.append((f"top-5 accuracy on {on}", f"{training['test_top5']:.2%}"))
    if "test_loss" in training:
        rows.append((f"cross-entropy on {on}", f"{training['test_loss']:.4f}"))
    if "val_accuracy" in training:
        count = f"{training['val_images']:,} " if training.get("val_images") else ""
        rows.append((f"accuracy on {count}validation images, best epoch", f"{training['val_accuracy']:.2%}"))
    if not rows:
        return []
    sections = ["## Results", _table(("measure", "value"), rows)]
    per_class = training.get("per_class")
    if isinstance(per_class, dict) and len(per_class) <= _MOST_CLASSES_LISTED:
        known = [(name, f"{share:.1%}") for name, share in per_class.items() if share is not None]
        sections.append(_table(("class", f"share of its images recognised, of {on}"), known))
    if "seed" in training:
        sections.append(f"One training run, with seed {training['seed']}.")
    return sections


def _cost(config: HubConfig, costs: list[Cost]) -> str:
    size = f"{config.in_channels} x {config.image_size} x {config.image_size}"
    rows = [(cost.name, f"{cost.params:,}", f"{cost.macs:,}") for cost in costs]
    text = f"## Cost\n\n{_table(('network', 'parameters', 'multiply-adds'), rows)}\n\nMultiply-adds of one {size} image"
    return f"{text}, as executed at batch 1."


def _use(config: HubConfig, where: str) -> str:
    blocks = [
        "## Use",
        '```bash\npip install "dynaconv[hub]"\n```',
        "```python\n"
        "from dynaconv.hub import DynaconvModel\n\n"
        f'model = DynaconvModel.from_pretrained("{where}")\n'
        'for name, probability in model.classify("image.png", top=3):\n'
        '    print(f"{name}: {probability:.1%}")\n'
        "```",
        "`model` is a `torch.nn.Module` in eval mode, and `model.network` is the network inside. "
        "`model.transform(image)` prepares a PIL image, and `model.class_names` holds the names of the classes.",
    ]
    if config.conversion is None:
        source = f"hf-hub:{where}" if where.count("/") == 1 else f"local-dir:{where}"
        blocks += [
            "The network also loads with timm:",
            "```python\n"
            "import dynaconv.models  # registers its networks with timm\n"
            "import timm\n\n"
            f'network = timm.create_model("{source}", pretrained=True).eval()\n'
            "```",
        ]
    return "\n\n".join(blocks)


def _preprocessing(config: HubConfig) -> str:
    colour = {1: "greyscale", 3: "RGB"}.get(config.in_channels, f"{config.in_channels}-channel")
    size = f"{config.image_size} x {config.image_size} pixels"
    if config.style == SMALL:
        steps = f"The whole {colour} image is resized to {size} (bilinear, antialiased; the aspect ratio is not kept)"
    else:
        crop = {
            "center": "the shorter side is resized so that a centre crop",
            "squash": "the image is squashed to a square of which a centre crop",
            "border": "the longer side is resized and the rest padded, so that a centre crop",
        }.get(config.crop_mode, f"timm's crop mode {config.crop_mode!r}, of which a crop")
        steps = (
            f"Of the {colour} image {crop} of {size} keeps {config.crop_pct:.4g} of the side "
            f"({config.interpolation} interpolation)"
        )
    mean, std = (", ".join(f"{value:.6g}" for value in values) for values in (config.mean, config.std))
    return (
        f"## Preprocessing\n\n{steps}; pixel values are scaled to [0, 1], then normalised with mean ({mean}) and "
        f"standard deviation ({std}). `model.transform` does all of it."
    )


def _training(training: dict[str, Any]) -> list[str]:
    settings = training.get("settings") or {}
    rows = [("data", str(training["data"]))] if training.get("data") else []
    if "train_images" in training:
        rows.append(("training images", f"{training['train_images']:,}"))
    if "epochs" in training:
        rows.append(("epochs", str(training["epochs"])))
    weights = training.get("weights")
    if isinstance(weights, dict) and "epoch" in weights:
        average = ", moving average of the weights" if weights.get("ema") else ""
        rows.append(("weights of epoch", f"{weights['epoch']}{average}"))
    rows += [(key.replace("_", " "), str(value)) for key, value in settings.items()]
    if "train_seconds" in training:
        rows.append(("training time", f"{training['train_seconds']:.0f} s on {training.get('device', 'one device')}"))
    versions = training.get("versions")
    if isinstance(versions, dict) and versions:
        rows.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return ["## Training", _table(("setting", "value"), rows)] if rows else []


def _citation(families: Counter[str]) -> list[str]:
    if not families:
        return []
    entries = "\n\n".join(get_family(name).citation for name in sorted(families))
    return ["## Citation", f"```bibtex\n{entries}\n```"]


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
