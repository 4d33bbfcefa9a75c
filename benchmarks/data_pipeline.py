"""How fast images come, and how fast a network takes them: the loaders should give at least twice as many.

    python benchmarks/data_pipeline.py                       # prints a table
    python benchmarks/data_pipeline.py --json out.json       # and keeps every measurement
    python benchmarks/data_pipeline.py --only glyphs jpegs   # of these alone

Recipes whose images are in memory or drawn anew, with their augmentation and ResNet-10, static and DCD, with the
recipe's channels; and a WebDataset of JPEGs, packed from photographs that come with scikit-image and scikit-learn and
from enlarged Fashion-MNIST, with the ImageNet augmentation at 128 pixels and MobileNetV2 x1.0, static and DCD. Loader
and network are timed in turns on the same core, a training step (forward, backward, SGD) on ready batches for the
network; the medians are compared.
"""

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from dynaconv.files import write_json
from dynaconv.train.config import load_recipe
from dynaconv.train.data.augmentation import Photo
from dynaconv.train.data.module import ImageDataModule
from dynaconv.train.data.pack import pack_folder
from dynaconv.train.factory import create_network

GOAL = 2.0
RECIPES = ("fashion-mnist", "glyphs", "glyphs-mini", "spoken-words", "fashion-mnist-hard")


def photographs() -> list[Image.Image]:
    """The colour and grey photographs that scikit-image and scikit-learn bring along."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    arrays = [getattr(data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket", "camera")]
    arrays += list(load_sample_images().images)
    return [Image.fromarray(np.asarray(array)).convert("RGB") for array in arrays]


def write_jpegs(folder: Path, images: int, seed: int = 0) -> float:
    """Write an image folder of two classes, crops of photographs and enlarged clothes, as large as ImageNet's.

    Returns:
        Mean size of a file in bytes.
    """
    from dynaconv.train.data.embedded import fashion_mnist

    rng = np.random.default_rng(seed)
    sources = photographs()
    clothes = fashion_mnist(None).train
    sizes = []
    for split, count in (("train", images), ("test", 8)):
        for number in range(count):
            if number % 2 == 0:
                image = sources[number // 2 % len(sources)]
                scale = rng.uniform(0.6, 1.0)
                width, height = int(image.width * scale), int(image.height * scale)
                left, top = (int(rng.integers(free + 1)) for free in (image.width - width, image.height - height))
                image = image.crop((left, top, left + width, top + height)).resize((500, 375), Image.Resampling.BICUBIC)
            else:
                image = Image.fromarray(clothes.images[number, 0].numpy()).resize((500, 375)).convert("RGB")
            path = folder / split / ("photo", "clothes")[number % 2] / f"{number:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=90)
            path.write_bytes(buffer.getvalue())
            sizes.append(len(buffer.getvalue()))
    return statistics.mean(sizes)


def endless(module: ImageDataModule) -> Iterator[Any]:
    """Training batches, epoch after epoch."""
    while True:
        yield from module.train_dataloader()


def rate(step: Callable[[], int], seconds: float) -> float:
    """Images a second of a step that returns how many it did, over at least ``seconds``."""
    images, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        images += step()
    return images / passed


def train_step(name: str, options: dict[str, Any], batch: Any, *, classes: int = 10) -> Callable[[], int]:
    """A step of training on one ready batch, in channels_last."""
    images, targets = batch
    model = create_network(name, num_classes=classes, in_channels=images.shape[1], options=options)
    model = model.to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> int:
        optimizer.zero_grad()
        F.cross_entropy(model(images), targets).backward()
        optimizer.step()
        return len(images)

    return step


def measure(steps: dict[str, Callable[[], int]], *, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Time several steps in turns."""
    for step in steps.values():
        step()
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            found[name].append(rate(step, seconds))
    return found


def loader_step(module: ImageDataModule) -> tuple[Callable[[], int], Any]:
    """Taking the next batch, and one batch."""
    batches = endless(module)
    return (lambda: len(next(batches)[1])), next(batches)


def in_memory(name: str, **timing: Any) -> dict[str, list[float]]:
    """A recipe's pipeline, and its network beside the static twin."""
    recipe = load_recipe(name)
    module = ImageDataModule(**recipe.data, num_workers=0)
    load, batch = loader_step(module)
    steps = {"loader": load}
    for network in ("static_resnet10", "dcd_resnet10"):
        steps[network] = train_step(network, recipe.model["model_options"], batch, classes=module.num_classes)
    return measure(steps, **timing)


def jpegs(images: int, size: int, **timing: Any) -> dict[str, list[float]]:
    """Shards of JPEGs with the ImageNet augmentation, and MobileNetV2."""
    with tempfile.TemporaryDirectory() as folder:
        mean = write_jpegs(Path(folder) / "images", images)
        print(f"{images} JPEGs of 500x375, {mean / 1000:.0f} kB each")
        pack_folder(Path(folder) / "images", Path(folder) / "shards", shard_images=64)
        module = ImageDataModule(
            name="wds/jpegs",
            data_dir=str(Path(folder) / "shards"),
            image_size=size,
            batch_size=16,
            num_workers=0,
            val_fraction=0,
            shuffle_buffer=200,
            augment=Photo(),
        )
        load, batch = loader_step(module)
        steps = {"loader": load}
        for name in ("static_mobilenetv2_100", "dcd_mobilenetv2_100"):
            steps[name] = train_step(name, {}, batch)
        return measure(steps, **timing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="timings of each, in turns")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one")
    parser.add_argument("--images", type=int, default=512, help="JPEGs to pack")
    parser.add_argument("--size", type=int, default=128, help="side length that the network takes")
    parser.add_argument(
        "--only", nargs="+", choices=[*RECIPES, "jpegs"], default=[*RECIPES, "jpegs"], help="which data"
    )
    parser.add_argument("--json", type=Path, help="keep every measurement")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    timing = {"rounds": arguments.rounds, "seconds": arguments.seconds}
    results = {name: in_memory(name, **timing) for name in arguments.only if name != "jpegs"}
    if "jpegs" in arguments.only:
        results[f"JPEGs in shards, {arguments.size} px"] = jpegs(arguments.images, arguments.size, **timing)
    print(f"medians of {arguments.rounds} timings of at least {arguments.seconds:g} s, load {os.getloadavg()[0]:.1f}")
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, one thread each for loader and network")
    print("| data | loader, images/s | network | takes, images/s | loader / network |\n|---|---|---|---|---|")
    for data, rates in results.items():
        loader = statistics.median(rates["loader"])
        for name in sorted(rates.keys() - {"loader"}):
            network = statistics.median(rates[name])
            short = "" if loader >= GOAL * network else f" (below {GOAL:g})"
            print(f"| {data} | {loader:,.0f} | {name} | {network:,.1f} | {loader / network:.1f}{short} |")
    if arguments.json is not None:
        write_json(arguments.json, results)


if __name__ == "__main__":
    main()
