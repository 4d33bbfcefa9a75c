"""Finds static networks as large, or as slow, as a dynamic one: what a fair comparison is made with.

    python tools/match_static.py dcd_resnet10 --size 1x32x32 --classes 500 \\
        --options '{"stem_stride": 2, "channels": [8, 16, 32, 64]}'

For ResNets all channel counts grow by one factor and are rounded, for MobileNetV2 the width. Of the static networks it
names those nearest in parameters and in multiply-adds, and the largest that takes no longer for one image on the native
kernels (one thread, medians of rounds in which all take turns).
"""

import argparse
import json
from typing import Any

import timm
import torch
from torch import nn

import dynaconv.models  # noqa: F401  # registers the networks with timm
from dynaconv import deploy, profile
from dynaconv.measure.latency import measure_latency

FACTORS = [1 + step / 64 for step in range(49)]
"""Candidates are up to three quarters wider than the dynamic network."""


def wider(name: str, options: dict[str, Any], factor: float) -> dict[str, Any]:
    """The options of a network whose layers have ``factor`` times the channels."""
    if "mobilenetv2" in name:
        named = int(name.rsplit("_", 1)[1]) / 100
        return options | {"width": round(options.get("width", named) * factor, 4)}
    return options | {"channels": [round(factor * channels) for channels in options["channels"]]}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a dynamic network's name, such as dcd_resnet10")
    parser.add_argument("--options", type=json.loads, default={}, help="its model options as JSON")
    parser.add_argument("--size", default="3x224x224", help="channels x height x width of the images")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=201)
    return parser.parse_args()


def main() -> None:
    """Print the three static networks beside the dynamic one."""
    args = parse()
    torch.set_num_threads(1)
    size = tuple(int(number) for number in args.size.split("x"))
    family, _, rest = args.model.partition("_")

    def network(name: str, options: dict[str, Any]) -> nn.Module:
        torch.manual_seed(0)
        made: nn.Module = timm.create_model(name, num_classes=args.classes, in_chans=size[0], **options)
        return made.eval()

    static = {key: value for key, value in args.options.items() if key != "family_options"}
    options = {json.dumps(wider(args.model, static, factor)): None for factor in FACTORS}
    networks = {"dynamic": network(args.model, args.options)}
    networks |= {text: network(f"static_{rest}", json.loads(text)) for text in options}
    counts = {name: profile(net, size) for name, net in networks.items()}
    deployed = {name: deploy(net, backend="native") for name, net in networks.items()}
    latency = measure_latency(deployed, size, rounds=args.rounds, warmup=20)
    goal, found = counts["dynamic"], list(options)
    chosen = {
        "parameters": min(found, key=lambda name: abs(counts[name].params - goal.params)),
        "multiply-adds": min(found, key=lambda name: abs(counts[name].published_macs - goal.published_macs)),
        "native latency": max(
            (name for name in found if latency[name].median_ms <= latency["dynamic"].median_ms),
            key=lambda name: counts[name].params,
            default=found[0],
        ),
    }
    rows = {f"{family}": "dynamic", "static": found[0], **{f"equal {what}": name for what, name in chosen.items()}}
    for what, name in rows.items():
        count = counts[name]
        print(
            f"{what:21} {count.params:>10,} parameters {count.published_macs / 1e6:8.3f} M multiply-adds "
            f"{1e3 * latency[name].median_ms:7.1f} us  {name if name != 'dynamic' else args.model}"
        )


if __name__ == "__main__":
    main()
