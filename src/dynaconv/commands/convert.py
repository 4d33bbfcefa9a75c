"""``dynaconv convert``: make a network with its weights dynamic without changing its function."""

import argparse
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynaconv.commands import _arguments as shared
from dynaconv.commands._network import LoadedNetwork, is_run, load_network
from dynaconv.commands._shared import add_command
from dynaconv.errors import RunError

if TYPE_CHECKING:
    from torch import nn

    from dynaconv.conversion import ConversionPlan

_EPILOG = (
    "Without -o nothing is written: only the plan and its cost are printed. The file is a checkpoint like that of a "
    "run: `dynaconv train --model NAME --model.weights FILE` starts from it, and `dynaconv profile` and `dynaconv "
    "export` accept it. Patterns are shell-style; quote them. See docs/convert.md."
)


def add(commands: Any) -> None:
    """Add ``dynaconv convert``."""
    count = shared.integer(1)
    command = add_command(commands, "convert", "make a network dynamic without changing its function", run, _EPILOG)
    shared.add_checkpoint(command, names=True)
    command.add_argument("--family", default="dcd", help=f"{', '.join(_own_families())}, or a registered one (dcd)")
    command.add_argument("--include", metavar="PATTERN", nargs="+", help="names of layers to convert")
    command.add_argument("--exclude", metavar="PATTERN", nargs="+", help="names of layers to keep static")
    command.add_argument(
        "--kinds", metavar="KIND", nargs="+", help="pointwise, depthwise, grouped, spatial, transposed, linear"
    )
    command.add_argument(
        "--kernel-sizes", metavar="N", nargs="+", type=count, help="side lengths of the kernels to convert"
    )
    command.add_argument("--min-channels", metavar="N", type=count, help="convert only layers of at least N channels")
    command.add_argument("--max-channels", metavar="N", type=count, help="convert only layers of at most N channels")
    command.add_argument(
        "--last-stages", metavar="N", type=count, help="only the last N stages, which end where feature maps halve"
    )
    position = command.add_mutually_exclusive_group()
    position.add_argument("--first", metavar="N", type=count, help="of these, only the first N")
    position.add_argument("--last", metavar="N", type=count, help="of these, only the last N")
    command.add_argument("--context", choices=["block"], help="the layers of a block read one context")
    command.add_argument(
        "--again", action="store_true", help="accept a network with dynamic layers, and convert more of it"
    )
    shared.add_option(command, "--family-option", "a hyperparameter of the layers")
    shared.add_option(command, "--option", "an argument of the model")
    weights = command.add_mutually_exclusive_group()
    weights.add_argument("--weights", metavar="FILE", type=Path, help="a checkpoint of the static network")
    weights.add_argument("--pretrained", action="store_true", help="download and load timm's weights")
    shared.add_out(command, "write the dynamic network to a .safetensors file")


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Print the plan and its cost, and write the network if ``--out`` is given."""
    from dynaconv.conversion import plan_conversion

    if arguments.out is not None and arguments.out.suffix != ".safetensors":
        raise RunError(f"the dynamic network is written as .safetensors; got {arguments.out}.")
    network = _load(arguments)
    plan = plan_conversion(
        network.model,
        arguments.family,
        include=arguments.include,
        exclude=arguments.exclude,
        kinds=arguments.kinds,
        kernel_sizes=arguments.kernel_sizes,
        min_channels=arguments.min_channels,
        max_channels=arguments.max_channels,
        last_stages=arguments.last_stages,
        input_size=None if arguments.last_stages is None else network.size,
        position=_position(arguments),
        again=arguments.again,
        context=arguments.context,
        **shared.parse_options(arguments.family_option, "--family-option"),
    )
    print(plan)
    dynamic = plan.apply(network.model)
    _print_costs(network, dynamic, plan)
    if arguments.out is not None:
        from dynaconv.conversion import conversion_of
        from dynaconv.train.checkpoint import save_trained

        save_trained(arguments.out, dynamic, {**_metadata(network), "conversion": conversion_of(dynamic)})
        print(f"written to {arguments.out} ({arguments.out.stat().st_size / 2**20:.1f} MiB)")


def _own_families() -> list[str]:
    """Return the names of dynaconv's families, without importing them."""
    folder = resources.files("dynaconv") / "families"
    return sorted(entry.name for entry in folder.iterdir() if (entry / "family.py").is_file())


def _position(arguments: argparse.Namespace) -> slice | None:
    if arguments.first is not None:
        return slice(0, arguments.first)
    return None if arguments.last is None else slice(-arguments.last, None)


def _load(arguments: argparse.Namespace) -> LoadedNetwork:
    given, options = arguments.checkpoint, shared.parse_options(arguments.option)
    if arguments.pretrained:
        if is_run(given):
            raise RunError(f"{given} is a trained run, which has its own weights; leave --pretrained out.")
        options["pretrained"] = True
    network = load_network(given, None, options)
    network.options.pop("pretrained", None)
    if arguments.weights is not None:
        if network.metadata is not None:
            raise RunError(f"{given} is a trained run, which has its own weights; leave --weights out.")
        _load_static(network.model, arguments.weights)
    elif network.metadata is None and not arguments.pretrained:
        print(f"{network.name} has random weights; pass --weights or --pretrained for others.")
    return network


def _load_static(model: "nn.Module", file: Path) -> None:
    from dynaconv.conversion.checkpoint_file import read_checkpoint
    from dynaconv.train.checkpoint import load_state

    load_state(model, read_checkpoint(file).state, str(file), "the network")


def _print_costs(network: LoadedNetwork, dynamic: "nn.Module", plan: "ConversionPlan") -> None:
    import torch

    from dynaconv.measure.profile import profile

    size = (1, *network.size)
    static = network.model.eval()
    images = torch.randn((2, *network.size), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = static(images), dynamic.eval()(images)
    difference = float((after - before).abs().max() / before.abs().max().clamp_min(1e-30))
    old, new = profile(static, size), profile(dynamic, size)
    print(
        f"{old.params:,} -> {new.params:,} parameters, {old.macs / 1e6:,.1f} -> {new.macs / 1e6:,.1f} million "
        f"multiply-adds at {'x'.join(map(str, network.size))} (x{new.macs / old.macs:.2f}); outputs differ by "
        f"{difference:.1e} of the largest on two random images."
    )


def _metadata(network: LoadedNetwork) -> dict[str, Any]:
    """Return the metadata that `load_trained` needs; for a network that is not a run, from timm's configuration."""
    if network.metadata is not None:
        return network.metadata
    from timm.data.config import resolve_model_data_config

    data = resolve_model_data_config(network.model)  # type: ignore[no-untyped-call]
    further = {key: value for key, value in network.options.items() if key not in ("num_classes", "in_chans")}
    return {
        "model": network.name,
        "model_options": further,
        "num_classes": network.options["num_classes"],
        "in_channels": network.options["in_chans"],
        "class_names": [str(number) for number in range(network.options["num_classes"])],
        "image_size": network.size[1],
        "mean": list(data["mean"]),
        "std": list(data["std"]),
    }
