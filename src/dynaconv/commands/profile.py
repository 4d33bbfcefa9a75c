"""``dynaconv profile``: the cost of a network by layer, compared with another network."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dynaconv.commands import _arguments as shared
from dynaconv.commands._network import LoadedNetwork, is_run, load_network, shared_options
from dynaconv.commands._shared import add_command, add_output
from dynaconv.errors import RunError
from dynaconv.files import write_json

if TYPE_CHECKING:
    from rich.console import Console

    from dynaconv.measure.latency import Latency
    from dynaconv.measure.profile import Profile

_EPILOG = (
    "Options are arguments of the model, their values JSON: `--option num_classes=10 --option "
    "family_options.reduction=8`. See docs/profile.md for the columns."
)
_NO_COMPARISON = "none"


def add(commands: Any) -> None:
    """Add ``dynaconv profile``."""
    command = add_command(commands, "profile", "count parameters, multiply-adds, memory and time", run, _EPILOG)
    shared.add_checkpoint(command, names=True)
    shared.add_size(command)
    shared.add_batch_size(command, 1, "images in the input")
    command.add_argument("--latency", action="store_true", help="also measure the time")
    command.add_argument(
        "--rounds", metavar="N", type=shared.integer(1), help="with --latency, rounds of the measurement (20)"
    )
    shared.add_option(command, "--option", "an argument of the model")
    add_output(command, "--csv", help_line="also write the layers as CSV; - for standard output")
    shared.add_json(command, "everything")
    command.add_argument(
        "--compare",
        metavar="CHECKPOINT",
        help="another network, or none; by default the static twin, if there is one",
    )


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Print the layers and the totals, and write the requested files."""
    from dynaconv.console import make_console

    if arguments.rounds is not None and not arguments.latency:
        raise RunError("--rounds belongs to the measurement of the time; pass --latency too, or leave --rounds out.")
    network = load_network(arguments.checkpoint, arguments.size, shared.parse_options(arguments.option))
    input_size = (arguments.batch_size, *network.size)
    other = _comparison(arguments.compare, network)
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

        latency = measure_latency(models, input_size, rounds=arguments.rounds or 20)
    _print_totals(console, profiles, latency)
    if arguments.csv is not None:
        profiled.to_csv(arguments.csv)
    if arguments.json is not None:
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
            hint = " A batch norm may need --batch-size 2." if profiled.input_size[0] == 1 else ""
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


def _comparison(given: str | None, network: LoadedNetwork) -> LoadedNetwork | None:
    """Return the network to compare with: the given one, else the static twin; None if there is none."""
    from dynaconv.train.factory import static_twin

    if given == _NO_COMPARISON:
        return None
    converted = network.metadata is not None and "conversion" in network.metadata
    name = given or (network.name if converted else static_twin(network.name))
    if name is None:
        return None
    return load_network(name, network.size, {} if is_run(name) else shared_options(network, name))
