"""How the time of every family grows with the batch, the resolution and the number of kernels, beside the cost model.

    python benchmarks/growth.py                     # up to 90 minutes; called again, it goes on where it stopped
    python benchmarks/growth.py --quick             # about 15 minutes on two processors: few values, short rounds
    python benchmarks/growth.py --axes latent --networks dcd --runtimes eager --architecture mobilenetv2_100
    python benchmarks/growth.py --minutes 0         # measures nothing; tables and figures of what is there

One quantity changes at a time. A group is an axis, a runtime and a number of threads. Every network of it has a process
of its own with all values, and all take turns; what counts are medians over rounds, and of the ratios to the static
twin in one round. Results go to OUT/growth.json after every group, tables to OUT/growth.md, points to OUT/growth.csv,
and one figure an axis beside them. Files are exported for a fixed resolution and a free batch, and stay in the folder;
delete it after a change of the export. Networks have their initial weights, which change no time.
"""

import argparse
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import _latency_cells as cells
from _families import labels, native_networks, networks
from _growth import AXES, Growth, Point, growing_networks, growth_values, load_growth, macs, points
from _latency_store import Row, here
from _turns import take_turns
from latency import Bench, add_conditions, completed, ratio_of, run_bench, summary

QUICK: dict[str, Any] = {"axes": ["batch", "side", "kernels"], "rounds": 3, "seconds": 15.0, "minutes": 15.0}
FULL: dict[str, Any] = {"axes": ["batch", "side", "kernels"], "rounds": 9, "seconds": 90.0, "minutes": 90.0}


class GrowthBench(Bench):
    """One run of this benchmark."""

    script, page, results = "growth.py", "_growth_page", "growth.json"

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        self.counted: dict[tuple[Any, ...], int] = {}

    def run(self) -> bool:
        """Measure what is missing; False when the time was over first."""
        return all(not self.over and self.growth(growth) for growth in growths(self.args))

    def growth(self, growth: Growth) -> bool:
        """Prepare and measure a group, unless all of it is known; False when the time was over first."""
        wanted = {network: points(growth, network, self.args.folder) for network in growth.values}
        known = {(row["network"], row["value"]) for row in self.store.growth(**growth.which)}
        missing = {(name, value) for name, values in growth.values.items() for value in values} - known
        if not missing and not self.args.redo:
            return True
        print(f"\n{growth.title}", flush=True)
        # The static twin takes its turns beside whatever is measured.
        chosen = {"static"} | (set(growth.values) if self.args.redo else {name for name, _ in missing})
        wanted = {name: each for name, each in wanted.items() if name in chosen}
        writers = {
            (point.path.name,): partial(cells.write_once, partial(point.write, self.args.folder, growth.runtime))
            for each in wanted.values()
            for point in each.values()
            if point.path is not None and not point.path.exists() and (point.path.name,) not in self.failures
        }
        if not self.write(writers):
            return False
        if not self.args.prepare:
            self.store.add(here(), growth=self.rows(growth, wanted))
        return True

    def macs(self, point: Point) -> int:
        """Multiply-adds at a point, which several groups have in common."""
        key = (point.name, str(point.options), point.size)
        if key not in self.counted:
            self.counted[key] = macs(point)
        return self.counted[key]

    def rows(self, growth: Growth, wanted: dict[str, Any]) -> list[Row]:
        """Measured rows of a group; what fails is said."""
        counted = {(name, key): self.macs(point) for name, each in wanted.items() for key, point in each.items()}
        loads = {name: partial(load_growth, each, growth.runtime, growth.threads) for name, each in wanted.items()}
        with self.processes(loads) as (pipes, _, failures):
            keys = [(name, str(value)) for name in pipes for value in growth.values[name]]
            turns, broken = take_turns(pipes, keys, self.args.rounds, self.args.seconds)
        for name, reason in failures.items():
            print(f"  {networks()[name]}: {reason}", flush=True)
        times = {key: [turn.ms for turn in each] for key, each in turns.items() if key not in broken}
        found = []
        for name, value in [(network, value) for network in pipes for value in growth.values[network]]:
            key = (name, str(value))
            if key in broken:
                print(f"  {networks()[name]} at {value}: {broken[key]}", flush=True)
                continue
            row = growth.which | {"network": name, "value": value} | summary(times[key])
            row |= {"ratio": ratio_of(times, key, growth.twin(value)), "macs": counted[key]}
            print(f"  {networks()[name]} at {value}: {row['ms']:.2f} ms", flush=True)
            found.append(row)
        return found


def growths(args: argparse.Namespace) -> list[Growth]:
    """Every group that is asked for."""
    found = []
    for axis, runtime, threads in itertools.product(args.axes, args.runtimes, args.threads):
        names = [name for name in growing_networks(args.networks) if runtime != "native" or name in native_networks()]
        if axis == "latent" and not args.architecture.startswith("mobilenetv2"):
            continue
        values = growth_values(axis, names, quick=args.quick)
        if values:
            growth = Growth(
                axis=axis,
                architecture=args.architecture,
                side=args.side,
                values=values,
                runtime=runtime,
                threads=threads,
            )
            found.append(growth)
    return found


def parsed(argv: list[str] | None = None) -> argparse.Namespace:
    """Arguments, those that were not given as `--quick` or its absence says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choice: Any = {"nargs": "+", "metavar": "NAME"}
    parser.add_argument("--axes", choices=AXES, **choice)
    parser.add_argument("--architecture", choices=cells.ARCHITECTURES, default="mobilenetv2_050", metavar="NAME")
    parser.add_argument("--networks", choices=labels(), default=[], help="families; default: all", **choice)
    runtimes = [name for name in cells.RUNTIMES if name != "compile"]
    parser.add_argument("--runtimes", choices=runtimes, default=["native", "ort"], **choice)
    parser.add_argument("--side", type=int, default=224, help="pixels, where another quantity changes")
    add_conditions(parser, Path("runs/growth"))
    return completed(parser, parser.parse_args(argv), QUICK, FULL)


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    run_bench(GrowthBench, parsed(argv))


if __name__ == "__main__":
    main()
