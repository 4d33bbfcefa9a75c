"""The console that every command prints on."""

from rich.console import Console


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # rich would end the program here; the command line has one place for that.
        raise BrokenPipeError


def make_console(*, soft_wrap: bool = False) -> Console:
    """Return a console on standard output that raises `BrokenPipeError` when its reader goes away."""
    return _Console(highlight=False, soft_wrap=soft_wrap)
