"""``dynaconv explore``: show in the browser what the kernels of a network do."""

import argparse
import tempfile
import webbrowser
from pathlib import Path
from typing import Any

from dynaconv.commands import _arguments as shared
from dynaconv.commands._shared import add_command
from dynaconv.errors import RunError

_EPILOG = (
    "The page runs the network in the browser and shows its coefficients and kernels for pictures that are drawn or "
    "loaded. Without a checkpoint it has the networks that ship with it. Ctrl+C ends the server. See docs/explorer.md."
)


def add(commands: Any) -> None:
    """Add ``dynaconv explore``."""
    command = add_command(commands, "explore", "show in the browser what the kernels of a network do", run, _EPILOG)
    shared.add_checkpoint(command, several=True, optional=True)
    shared.add_data(command)
    command.add_argument("--images", metavar="N", type=shared.integer(1), help="test images of the mean kernels (512)")
    command.add_argument(
        "--port", metavar="N", type=shared.integer(0, 65535), default=8000, help="port of the page, 0 for any (8000)"
    )
    command.add_argument("--no-browser", action="store_true", help="print the address only, and open no browser")


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Export the networks and serve the page until Ctrl+C."""
    from dynaconv.explore.server import open_server

    if not arguments.checkpoints:
        given = [arguments.data, arguments.data_dir, arguments.images]
        if any(value is not None for value in given):
            raise RunError("--data, --data-dir and --images are for a CHECKPOINT; name one, or leave them out.")
        _serve(open_server(arguments.port), arguments)
        return
    with tempfile.TemporaryDirectory(prefix="dynaconv-explore-") as made:
        folder = Path(made)
        # Before the export, which takes a while.
        with open_server(arguments.port, folder) as server:
            from dynaconv.explore.networks import write_networks

            write_networks(
                arguments.checkpoints,
                folder,
                data=arguments.data,
                data_dir=arguments.data_dir,
                images=arguments.images or 512,
                say=lambda line: print(line, flush=True),
            )
            _serve(server, arguments)


def _serve(server: Any, arguments: argparse.Namespace) -> None:
    address = f"http://localhost:{server.server_address[1]}/"
    print(f"the explorer is at {address}; Ctrl+C ends it", flush=True)
    if not arguments.no_browser:
        webbrowser.open(address)
    with server:
        server.serve_forever()
