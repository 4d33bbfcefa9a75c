"""Writes trained networks as the files that the explorer's page reads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.conversion.freeze import freeze_at
from dynaconv.errors import RunError, counted
from dynaconv.explain.movement import dynamic_layers, movement_of, reached_means
from dynaconv.export import export_onnx
from dynaconv.families import Family, family_of
from dynaconv.files import write_json
from dynaconv.measure.modules import is_dynamic
from dynaconv.train.checkpoint import load_trained
from dynaconv.train.checkpoint_evaluation import checkpoint_data, random_images

INDEX = "index.json"
_SAMPLES = 12
"""Number of pictures to try."""
_SEED = 0
"""Seed of the choice of images."""
Batches = list[tuple[Tensor, Tensor]]
"""Normalised images (B, C, H, W) and their classes (B,)."""


@dataclass(frozen=True, kw_only=True)
class _Network:
    """A network to write: its title, the name of its files, and images of its test data."""

    title: str
    name: str
    model: nn.Module
    metadata: Mapping[str, Any]
    batches: Batches

    @property
    def layers(self) -> dict[Any, str]:
        """The dynamic layers and their names."""
        return {module: name for name, module in self.model.named_modules() if is_dynamic(module)}


def write_networks(
    checkpoints: Sequence[str | Path],
    folder: Path,
    *,
    data: str | None = None,
    data_dir: str | None = None,
    images: int = 512,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Write trained networks into a folder from which the page runs them.

    Each network becomes an ONNX file for one image, with coefficients and kernels as outputs; a second one in which
    every layer has its mean kernel; and a file of W0 and the mean kernels. ``index.json`` describes them, and pictures
    of the data are there to try.

    Args:
        checkpoints: Run folders or checkpoint files.
        folder: The folder, which exists.
        data, data_dir: The data set whose test images are used; by default that of the training.
        images: Number of test images for mean kernels and accuracies.
        say: Called with each line of progress.

    Raises:
        RunError: No network is dynamic, or the data set is unknown.
        DataError: The images cannot be read.
        CheckpointError: A checkpoint cannot be loaded.
        ExportError: A network cannot be exported.
    """
    loaded = [load_trained(path) for path in checkpoints]
    titles = [str(metadata["model"]) for _, metadata in loaded]
    if not any(is_dynamic(module) for model, _ in loaded for module in model.modules()):
        raise RunError(
            f"{' and '.join(dict.fromkeys(titles))} has no dynamic layer to explore; give a run of a dynamic network, "
            f"such as dcd_..., dyconv_..., condconv_... or odconv_...."
        )
    entries = []
    for number, (model, metadata) in enumerate(loaded):
        title = titles[number] if titles.count(titles[number]) == 1 else f"{titles[number]} ({number + 1})"
        module = checkpoint_data(metadata, data, data_dir, 128, 0)
        batches = list(module.eval_loader(random_images(module, "test", images, seed=_SEED)))
        count = sum(len(targets) for _, targets in batches)
        say(f"{title}: mean kernels over {counted(count, 'test image')}, and export ...")
        name = f"{number + 1}-{titles[number].replace('/', '-')}"
        entries.append(
            _write(_Network(title=title, name=name, model=model, metadata=metadata, batches=batches), folder)
        )
    write_json(folder / INDEX, {"networks": entries})


def _write(network: _Network, folder: Path) -> dict[str, Any]:
    """Write the files of one network and return its entry of the index."""
    model, metadata, batches = network.model, network.metadata, network.batches
    example, dynamic = batches[0][0][:2], bool(network.layers)
    export_onnx(
        model,
        folder / f"{network.name}.onnx",
        example,
        batch=1,
        free_size=False,
        coefficients=dynamic,
        kernels=dynamic,
    )
    scores = _logits(model, batches)
    classes = torch.cat([targets for _, targets in batches])
    family = _family(network)
    entry = {
        "title": network.title,
        "family": None
        if family is None
        else {"title": family.title, "equation": family.equation, "arxiv": family.arxiv},
        "classes": metadata["class_names"],
        "mean": list(metadata["mean"]),
        "std": list(metadata["std"]),
        "size": list(example.shape[1:]),
        "file": f"{network.name}.onnx",
        "images": len(classes),
        "accuracy": _share(scores.argmax(1) == classes),
        "samples": _write_samples(network, folder),
        "layers": [],
    }
    if dynamic:
        frozen, entry["layers"] = _freeze(network, folder / f"{network.name}.kernels")
        export_onnx(frozen, folder / f"{network.name}.frozen.onnx", example, batch=1, free_size=False)
        predicted = _logits(frozen, batches).argmax(1)
        entry["frozen"] = {
            "file": f"{network.name}.frozen.onnx",
            "kernels": f"{network.name}.kernels",
            "accuracy": _share(predicted == classes),
            "changed": _share(predicted != scores.argmax(1)),
        }
    return entry


def _freeze(network: _Network, file: Path) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Return the network with mean kernels, and its layers; write W0 and the mean of each layer, in float16."""
    names = dynamic_layers(network.model)
    means = reached_means(network.model, names, network.batches, None)
    entries: list[dict[str, Any]] = []
    kernels: list[Tensor] = []
    layer: Any
    for layer, mean in means.items():
        kernels += [layer.neutral_kernel, mean.kernel]
        entries.append(
            {
                "name": names[layer],
                "kind": type(layer).__name__,
                "shape": list(mean.kernel.shape),
                "movement": movement_of(mean),
                "coefficients": _coefficients(layer),
            }
        )
    file.write_bytes(b"".join(kernel.detach().contiguous().half().numpy().tobytes() for kernel in kernels))
    freezable = {layer: names[layer] for layer in means if layer.freezing_refusal() is None}  # type: ignore[operator]
    return freeze_at(network.model, freezable, means), entries


def _coefficients(layer: Any) -> dict[str, dict[str, Any]]:
    """Return what a family says of the coefficients of a layer, by their names."""
    family = family_of(layer)
    if family is None:
        return {}
    return {
        name: {
            "symbol": each.symbol,
            "role": each.role,
            "element": each.element,
            "limit": each.limit(layer) if callable(each.limit) else each.limit,
        }
        for name, each in family.coefficients.items()
    }


def _family(network: _Network) -> Family | None:
    """Return the family of the first dynamic layer; None for a static network."""
    return next((family for layer in network.layers if (family := family_of(layer)) is not None), None)


@torch.inference_mode()
def _logits(model: nn.Module, batches: Batches) -> Tensor:
    return torch.cat([model(images) for images, _ in batches])


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())


def _write_samples(network: _Network, folder: Path) -> list[dict[str, str]]:
    """Write some images as PNG files, of classes spread over all, and return their paths and classes."""
    from PIL import Image

    names, metadata = network.metadata["class_names"], network.metadata
    mean, std = (torch.tensor(metadata[key])[:, None, None] for key in ("mean", "std"))
    images, classes = (torch.cat(parts) for parts in zip(*network.batches, strict=True))
    present = torch.tensor(sorted(set(classes.tolist())))
    (folder / "samples").mkdir(exist_ok=True)
    found = []
    for target in present[:: -(-len(present) // _SAMPLES)].tolist():
        pixels = (images[classes == target][0] * std + mean) * 255
        array = pixels.round().clamp(0, 255).to(torch.uint8).movedim(0, -1).numpy()
        file = f"samples/{network.name}-{target}.png"
        Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(folder / file)
        found.append({"file": file, "label": names[target]})
    return found
