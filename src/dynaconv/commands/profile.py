"""``dynaconv profile``: the cost of a network by layer, compared with another network."""

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dynaconv.commands._network import LoadedNetwork, load_network, shared_options, static_twin
from dynaconv.commands._options import parse_options
from dynaconv.commands._shared import add_command, add_output
from dynaconv.errors import RunError

if TYPE_CHECKING:
    from rich.console import Console

    from dynaconv.measure.latency import Latency
    from dynaconv.measure.profile import Profile

_EPILOG = (
    "Sizes are channels, height and width: `--size 3 224 224` or `--size 1x28x28`. Options are arguments of the model, "
    "their values JSON: `--option num_classes=10 --option family_options.reduction=8`. See "
    "docs/profile.md for the columns."
)
_NO_COMPARISON = "none"


def add(commands: Any) -> None:
    """Add ``dynaconv profile``."""
    command = add_command(commands, "profile", "count parameters, multiply-adds, memory and time", run, _EPILOG)
    command.add_argument("model", metavar="MODEL", help="a timm name, dynaconv's included, or a trained run")
    command.add_argument("--size", metavar="N", nargs="+", help="channels, height and width; by default the model's")
    command.add_argument("--batch", metavar="N", type=int, default=1, help="images in the input")
    command.add_argument("--latency", action="store_true", help="also measure the time")
    command.add_argument("--rounds", metavar="N", type=int, default=20, help="rounds of the latency measurement")
    command.add_argument(
        "--option", metavar="KEY=VALUE", action="append", default=[], help="an argument of the model; may be repeated"
    )
    add_output(command, "--csv", "also write the layers as CSV")
    add_output(command, "--json", "also write everything as JSON")
    command.add_argument(
        "--compare",
        metavar="OTHER",
        help="another name or run, or none; by default the static twin, if there is one",
    )


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Print the layers and the totals, and write the requested files."""
    from dynaconv.console import make_console

    for flag, value in (("--batch", arguments.batch), ("--rounds", arguments.rounds)):
        if value < 1:
            raise RunError(f"{flag} is at least 1; got {value}.")
    size, options = parse_size(arguments.size), parse_options(arguments.option)
    network = load_network(arguments.model, size, options)
    input_size = (arguments.batch, *(size or network.size))
    other = _comparison(arguments.compare, network, input_size)
    profiled = _profile(network, input_size, latency=arguments.latency, rounds=arguments.rounds)
    compared = None if other is None else _profile(other, input_size)
    console = make_console()
    console.print(profiled.table(console.width))
    profiles = {network.title: profiled}
    models = {network.title: network.model}
    if other is not None and compared is not None:
        profiles[other.title] = compared
        models[other.title] = other.model
    latency = None
    if arguments.latency:
        from dynaconv.measure.latency import measure_latency

        latency = measure_latency(models, input_size, rounds=arguments.rounds)
    _print_totals(console, profiles, latency)
    if arguments.csv is not None:
        profiled.to_csv(arguments.csv)
    if arguments.json is not None:
        from dynaconv.files import write_json

        facts: dict[str, Any] = {"model": network.name, "options": network.options, **profiled.to_dict()}
        if other is not None and compared is not None:
            facts["compared"] = {"model": other.name, "options": other.options, **compared.to_dict()}
        write_json(arguments.json, facts)


def _print_totals(console: "Console", profiles: "Mapping[str, Profile]", latency: "Latency | None") -> None:
    from dynaconv.measure.profile_table import comparison_table

    times = None if latency is None else {entry.name: entry.median_ms for entry in latency.models}
    console.print(comparison_table(profiles, times))
    for name, profiled in profiles.items():
        peak = f"in {profiled.peak_layer}" if profiled.peak_layer else "between two layers"
        console.print(f"{name}: the memory peak is {peak}.", markup=False, soft_wrap=True)
        if profiled.saved_refusal is not None:
            hint = " A batch norm may need --batch 2." if profiled.input_size[0] == 1 else ""
            console.print(
                f"{name} does not train on this input: {profiled.saved_refusal}.{hint}", markup=False, soft_wrap=True
            )
    if latency is not None:
        console.print(f"latency: {latency.conditions}.", soft_wrap=True)


def _profile(network: LoadedNetwork, input_size: tuple[int, ...], **latency: Any) -> "Profile":
    from dynaconv.measure.profile import profile

    try:
        return profile(network.model, input_size, **latency)
    except ValueError as error:
        raise RunError(f"{network.title}: {str(error).rstrip('.')}.") from error


def _comparison(given: str | None, network: LoadedNetwork, input_size: tuple[int, ...]) -> LoadedNetwork | None:
    """Return the network to compare with: the given one, else the static twin; None if there is none."""
    if given == _NO_COMPARISON:
        return None
    converted = network.metadata is not None and "conversion" in network.metadata
    name = given or (network.name if converted else static_twin(network.name))
    if name is None:
        return None
    return load_network(name, (input_size[1], input_size[2], input_size[3]), shared_options(network, name))


def parse_size(given: Sequence[str] | None) -> tuple[int, int, int] | None:
    """Parse (C, H, W) from ``3 224 224`` or ``3x224x224``."""
    if given is None:
        return None
    parts = " ".join(given).replace("x", " ").split()
    if len(parts) != 3 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise RunError(f"--size is channels, height and width, such as 3 224 224 or 1x28x28; got {' '.join(given)!r}.")
    channels, height, width = map(int, parts)
    return channels, height, width
