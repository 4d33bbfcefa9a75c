"""Draws what the data sets show that are drawn anew: docs/images/data/NAME.png.

python tools/data_sheets.py                     # all of them
python tools/data_sheets.py glyphs glyphs-mini  # these
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from dynaconv.train.data.drawn import DrawnImages
from dynaconv.train.data.source import Source, TensorImages
from dynaconv.train.data.sources import DRAWN_SOURCES, load_source

OUT = Path(__file__).parents[1] / "docs" / "images" / "data"
COLUMNS, ROWS, GREYS = 24, 3, 16


def grid(images: Tensor) -> np.ndarray:
    """Put pictures ``(N, 1, S, S)`` side by side, ``COLUMNS`` in a row."""
    rows = images[:, 0].reshape(-1, COLUMNS, *images.shape[2:])
    return rows.permute(0, 2, 1, 3).flatten(0, 1).flatten(1).numpy()


def parts(source: Source) -> dict[str, Tensor]:
    """Some pictures of each part: random ones, in the order of their classes."""
    count = COLUMNS * ROWS
    assert isinstance(source.train, DrawnImages)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(source.train), generator=generator)[:count]
    train, targets = source.train.pictures(0, 0, chosen[source.train.targets[chosen].argsort()])
    assert (targets.diff() >= 0).all()
    found = {"training, epoch 1 of seed 0": train}
    for title, split in (("validation", source.validation), ("test", source.test)):
        assert isinstance(split, TensorImages)
        chosen = torch.randperm(len(split), generator=generator)[:count]
        found[title] = split.images[chosen[split.targets[chosen].argsort()]]
    return found


def draw(name: str) -> Path:
    """Write one sheet."""
    found = parts(load_source(name))
    side = next(iter(found.values())).shape[-1]
    width, height = COLUMNS * side, ROWS * side
    bar = 22
    figure = Figure(figsize=(width / 100, 3 * (height + bar) / 100), dpi=100)
    for number, (title, images) in enumerate(found.items()):
        bottom = (2 - number) / 3
        axes = figure.add_axes((0, bottom, 1, height / (3 * (height + bar))))
        axes.imshow(grid(images), cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
        axes.set_title(f"{name}: {title}", fontsize=9, pad=4)
        axes.axis("off")
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name}.png"
    figure.savefig(path)
    # Noise does not compress; fewer greys make a fifth of the size.
    Image.open(path).convert("L").quantize(GREYS).save(path, optimize=True)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(DRAWN_SOURCES), metavar="NAME", help="of a data set")
    for name in parser.parse_args().names:
        print(draw(name))


if __name__ == "__main__":
    main()
