"""``dynaconv shard``: pack an image folder into tar shards for streaming, or index existing shards."""

import argparse
from pathlib import Path
from typing import Any

from dynaconv.commands._arguments import add_out, add_seed, integer, real
from dynaconv.commands._shared import add_command
from dynaconv.errors import RunError, counted

_EPILOG = (
    "FOLDER is an image folder as for `dynaconv train`. Without --out, FOLDER holds .tar files, of dynaconv or another "
    "tool, and only their index is written. Train on shards with `dynaconv train --data wds/DIR`; see docs/scale.md."
)


def add(commands: Any) -> None:
    """Add ``dynaconv shard``."""
    command = add_command(commands, "shard", "pack an image folder into tar shards", run, _EPILOG)
    command.add_argument("folder", metavar="FOLDER", type=Path, help="an image folder, or a folder of .tar files")
    add_out(command, "folder for the shards, new or empty", metavar="DIR")
    command.add_argument("--shard-size", metavar="SIZE", help="size after which a shard ends, such as 100MB (100MB)")
    command.add_argument(
        "--shard-images", metavar="N", type=integer(1), help="number of images after which a shard ends, if sooner"
    )
    command.add_argument(
        "--test-fraction",
        metavar="FRACTION",
        type=real(1e-6, 1 - 1e-6),
        help="fraction of images to hold out if there is no test set (0.2)",
    )
    add_seed(command, "seed of the image order and of that split", default=None)
    command.add_argument("--verify", action="store_true", help="decode every image first, to find corrupt ones")


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Pack or index a folder, and print the number of images and shards."""
    from dynaconv.train.data.pack import index_shards

    if arguments.out is None:
        _refuse_packing_options(arguments)
        index = index_shards(arguments.folder)
        where = arguments.folder
    else:
        index = _pack(arguments)
        where = arguments.out
    for name, split in index["splits"].items():
        print(f"{name}: {counted(split['num_samples'], 'image')} in {counted(len(split['filenames']), 'shard')}")
    print(f"{len(index['classes'])} classes; train with `dynaconv train --data wds/{where}`")


def _refuse_packing_options(arguments: argparse.Namespace) -> None:
    given = [
        f"--{name.replace('_', '-')}"
        for name in ("shard_size", "shard_images", "test_fraction", "seed")
        if getattr(arguments, name) is not None
    ] + ["--verify"] * arguments.verify
    if given:
        raise RunError(f"{given[0]} is for packing, which needs --out; name a folder for the shards.")
    if not arguments.folder.is_dir():
        raise RunError(f"there is no folder {arguments.folder}.")
    if not any(arguments.folder.glob("*.tar")):
        raise RunError(f"{arguments.folder} holds no .tar file; to pack an image folder pass --out DIR.")


def _pack(arguments: argparse.Namespace) -> dict[str, Any]:
    from rich.progress import Progress

    from dynaconv.console import make_console
    from dynaconv.train.data.pack import DEFAULT_SHARD_SIZE, pack_folder, parse_size

    console = make_console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def report(split: str, done: int, total: int) -> None:
            if split not in tasks:
                tasks[split] = bar.add_task(split, total=total)
            bar.update(tasks[split], completed=done)

        return pack_folder(
            arguments.folder,
            arguments.out,
            shard_size=DEFAULT_SHARD_SIZE if arguments.shard_size is None else parse_size(arguments.shard_size),
            shard_images=arguments.shard_images,
            test_fraction=arguments.test_fraction,
            seed=arguments.seed or 0,
            verify=arguments.verify,
            overwrite=arguments.overwrite,
            report=report,
            say=lambda line: console.print(line, markup=False, soft_wrap=True),
        )
