"""The console that every command prints on."""

from rich.console import Console


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # rich would exit the program here; `dynaconv.cli.main` handles a closed pipe.
        raise BrokenPipeError


def make_console(*, soft_wrap: bool = False) -> Console:
    """Return a console on standard output that raises `BrokenPipeError` if its reader closes the pipe."""
    return _Console(highlight=False, soft_wrap=soft_wrap)
