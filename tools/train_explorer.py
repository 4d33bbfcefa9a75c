"""Trains the networks that ship with the explorer, and writes them to docs/results/weights/.

python tools/train_explorer.py --runs runs/explorer        # goes on where it stopped
python tools/train_explorer.py --runs runs/explorer dcd    # this network only
"""

import argparse
import json
from pathlib import Path

from safetensors import safe_open

from dynaconv.cli import main as dynaconv
from dynaconv.train.checkpoint import MODEL_FILE, write_weights

OUT = Path(__file__).parents[1] / "docs" / "results" / "weights"
EPOCHS = {"static": 12, "dcd": 12, "dyconv": 6, "odconv": 6, "condconv": 6}
"""Number of epochs by network. A step of a mixture of kernels takes twice the time and more."""
CHANNELS = [8, 16, 32, 64]


def train(name: str, folder: Path) -> Path:
    """Return the weights of a finished run, after training it if there is none."""
    weights = folder / MODEL_FILE
    if not weights.exists():
        chosen = ["--model", f"{name}_resnet10", "--model.model_options.channels", json.dumps(CHANNELS)]
        further = ["--epochs", str(EPOCHS[name]), "--trainer.accelerator", "cpu", "--out", str(folder)]
        if code := dynaconv(["train", "--config", "glyphs-mini", *chosen, *further]):
            raise SystemExit(code)
    return weights


def pack(weights: Path, file: Path) -> None:
    """Copy a run's weights in float16, with their metadata."""
    with safe_open(weights, framework="pt") as opened:
        state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  # not a mapping
        metadata = opened.metadata()
    halves = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    write_weights(file, halves, {key: value for key, value in metadata.items() if key != "format"})


def main() -> None:
    """Train and pack each network, and print the table of docs/results/weights/README.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", default=EPOCHS, help=", ".join(EPOCHS))
    parser.add_argument("--runs", type=Path, required=True, metavar="DIR", help="folder of the runs")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.names:
        if name not in EPOCHS:
            parser.error(f"the networks are {', '.join(EPOCHS)}; got {name!r}")
        folder = arguments.runs / name
        file, result = OUT / f"{name}.safetensors", folder / "packed.json"
        pack(train(name, folder), file)
        if code := dynaconv(["eval", str(file), "--json", str(result), "--overwrite"]):
            raise SystemExit(code)
        summary, tested = json.loads((folder / "summary.json").read_text()), json.loads(result.read_text())
        rows.append(
            f"| `{file.name}` | {summary['params']:,} | {EPOCHS[name]} | {file.stat().st_size / 1e6:.2f} | "
            f"{tested['accuracy']:.1%} | {summary['train_seconds'] / 60:.0f} |"
        )
    print("\n| file | parameters | epochs | MB | test accuracy | minutes |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
