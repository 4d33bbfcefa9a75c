"""``dynaconv study``: run a study, and report its results."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynaconv.commands._arguments import add_out, integer
from dynaconv.commands._shared import add_command
from dynaconv.errors import RunError, RunsFailedError, listed, nearest_names
from dynaconv.files import write_json

if TYPE_CHECKING:
    from dynaconv.study.definition import Study
    from dynaconv.study.folder import StudyFolder
    from dynaconv.study.runner import RunOptions

_EPILOG = (
    "Finished runs are skipped and interrupted runs continue, so the same command completes a study. Several processes "
    "may work on one folder. See docs/studies.md."
)


def add(commands: Any) -> None:
    """Add ``dynaconv study``."""
    command = add_command(commands, "study", "compare networks over several seeds", run, _EPILOG)
    command.add_argument("study", nargs="?", metavar="NAME|FILE.yaml", help="a shipped study's name, or a file")
    command.add_argument("--folder", metavar="DIR", type=Path, help="folder of the runs; by default studies/NAME")
    command.add_argument(
        "--only",
        metavar="VARIANT",
        nargs="+",
        default=[],
        help="run only these variants; in a sweep, VARIANT also stands for all its values",
    )
    command.add_argument("--seeds", metavar="N", nargs="+", type=integer(0), default=[], help="run only these seeds")
    command.add_argument(
        "--import",
        dest="imported",
        metavar="DIR",
        type=Path,
        help="first copy the ended runs of a report's folder into the study",
    )
    command.add_argument(
        "--jobs",
        metavar="N",
        type=integer(1, 1024),
        default=1,
        help="number of runs in parallel, each in its own process",
    )
    command.add_argument("--retry", action="store_true", help="repeat runs that diverged or failed")
    command.add_argument("--keep-checkpoints", action="store_true", help="keep checkpoints and weights of ended runs")
    command.add_argument("--costs", action="store_true", help="measure steps, inference and memory, and exit")
    command.add_argument(
        "--rounds", metavar="N", type=integer(1), help="with --costs, timed steps of each variant (11)"
    )
    command.add_argument("--report", action="store_true", help="write tables and figures of the results, and exit")
    add_out(command, "folder of the report, empty or new; by default FOLDER/report, which is renewed", metavar="DIR")
    command.add_argument("--list", action="store_true", help="print the state of each run, and exit")
    command.add_argument("--list-studies", action="store_true", help="print the names of the shipped studies and exit")


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Run a study's open runs, or measure its costs, write its report or list its runs."""
    from dynaconv.study import STUDIES

    if arguments.list_studies:
        print("\n".join(STUDIES.names()))
        return
    if arguments.study is None:
        raise RunError(f"name a study: {', '.join(STUDIES.names())}, or a file.")
    from dynaconv.study.folder import StudyFolder
    from dynaconv.study.load import load_study
    from dynaconv.study.record import import_runs
    from dynaconv.study.runner import RunOptions, run_in_processes, run_study
    from dynaconv.train.stopping import RunStopped

    if arguments.rounds is not None and not arguments.costs:
        raise RunError("--rounds belongs to the measurement of costs; pass --costs too, or leave --rounds out.")
    if arguments.out is not None and not arguments.report:
        raise RunError("--out is the folder of the report and needs --report; the folder of the runs is --folder.")
    _refuse_unused(arguments)
    study = load_study(arguments.study)
    folder = StudyFolder(arguments.folder or Path("studies") / study.name)
    if folder.path.exists() and not folder.path.is_dir():
        raise RunError(f"{folder.path} is a file; --folder names the folder of the runs.")
    options = RunOptions(
        only=_checked_variants(study, arguments.only),
        seeds=_checked_seeds(study, arguments.seeds),
        retry=arguments.retry,
        keep_checkpoints=arguments.keep_checkpoints,
    )
    if arguments.imported is not None:
        import_runs(study, folder, arguments.imported, options.only, options.seeds)
    if arguments.list:
        _print_states(study, folder, options)
        return
    if arguments.costs:
        _measure(study, folder, options, arguments.rounds or 11)
    if arguments.report:
        _report(study, folder, arguments.out)
    if arguments.costs or arguments.report:
        return
    try:
        if arguments.jobs == 1:
            run_study(study, folder, options, say=lambda line: print(line, flush=True))
        else:
            run_in_processes(arguments.study, folder.path, options, arguments.jobs)
    except RunStopped as stopped:
        message = f"{str(stopped).rstrip('.')}; the same command goes on from there"
        if stopped.signal == "SIGINT":
            raise KeyboardInterrupt(message) from None
        print(f"dynaconv: {message}", file=sys.stderr)
        return
    _print_failures(study, folder, options)


def _refuse_unused(arguments: argparse.Namespace) -> None:
    """Raise RunError for an option of the runs if no run is started, and for an action that another one excludes."""
    actions = [f"--{name}" for name in ("list", "costs", "report") if getattr(arguments, name)]
    if len(actions) > 1 and arguments.list:
        raise RunError(f"--list prints the state of the runs and exits; leave it or {actions[1]} out.")
    options = {"jobs": arguments.jobs != 1, "retry": arguments.retry, "keep-checkpoints": arguments.keep_checkpoints}
    for name, given in options.items():
        if given and actions:
            raise RunError(f"--{name} is for runs, and {actions[0]} starts none; leave one of them out.")


def _checked_variants(study: "Study", names: list[str]) -> tuple[str, ...]:
    chosen = {name: study.named(name) for name in names}
    for name, found in chosen.items():
        if not found:
            near = listed(nearest_names(name, study.variants))
            raise RunError(f"--only {name}: the study {study.name} has no such variant; the nearest are {near}.")
    return tuple(dict.fromkeys(variant for found in chosen.values() for variant in found))


def _checked_seeds(study: "Study", seeds: list[int]) -> tuple[int, ...]:
    known = sorted({seed for variant in study.variants.values() for seed in variant.seeds})
    for seed in seeds:
        if seed not in known:
            raise RunError(
                f"--seeds {seed}: the study {study.name} has the seeds {listed(map(str, known), quote=False)}."
            )
    return tuple(seeds)


def _measure(study: "Study", folder: "StudyFolder", options: "RunOptions", rounds: int) -> None:
    from dynaconv.study.costs import measure_costs, merge_costs
    from dynaconv.study.folder import COSTS_FILE
    from dynaconv.study.runner import check_recipes

    check_recipes(study)
    folder.claim(study)
    found = measure_costs(study, options.only, rounds=rounds, say=lambda line: print(line, flush=True))
    file = folder.path / COSTS_FILE
    if options.only and file.is_file():
        found = merge_costs(json.loads(file.read_text(encoding="utf-8")), found, study.reference)
    write_json(file, found)


def _report(study: "Study", folder: "StudyFolder", out: Path | None) -> None:
    from dynaconv.study.report import write_report
    from dynaconv.study.results import read_results

    page = write_report(read_results(study, folder), out or folder.path / "report")
    print(f"the report is {page}")


def _print_states(study: "Study", folder: "StudyFolder", options: "RunOptions") -> None:
    from collections import Counter

    from rich.table import Table

    from dynaconv.console import make_console
    from dynaconv.study.runner import states

    found = states(study, folder, options)
    table = Table("variant", "runs by seed", title=f"{study.title}: {folder.path}")
    for name in study.variants:
        runs = [f"{key.seed} {state}" for key, state in found.items() if key.variant == name]
        if runs:
            table.add_row(name, ", ".join(runs))
    counts = Counter(found.values())
    table.add_section()
    table.add_row(f"{len(found)} runs", ", ".join(f"{count} {state}" for state, count in counts.items()))
    make_console().print(table)


def _print_failures(study: "Study", folder: "StudyFolder", options: "RunOptions") -> None:
    from dynaconv.study.runner import states

    ended = states(study, folder, options)
    for key, state in ended.items():
        if state in ("diverged", "failed"):
            print(f"{key} {state}: {(folder.outcome(key) or {}).get('message', '')}")
    failed = sum(state == "failed" for state in ended.values())
    if failed:
        raise RunsFailedError(f"{failed} of {len(ended)} runs failed; fix the cause and run again with --retry.")
