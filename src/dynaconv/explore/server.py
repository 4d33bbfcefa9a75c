"""Serves the explorer's page on this machine."""

import errno
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from dynaconv.errors import RunError

PAGE = Path(__file__).parent / "page"
"""The built page; ``make page`` builds it, and wheels have it."""
NETWORKS = "networks"
"""Folder of the networks beside the page."""
_HOST = "127.0.0.1"


class _Handler(SimpleHTTPRequestHandler):
    """Serves the page, and the networks from a folder of their own."""

    extensions_map = {  # noqa: RUF012  # as in the base class
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".json": "application/json",
        ".wasm": "application/wasm",
    }

    def __init__(self, networks: Path, *args: Any, **options: Any) -> None:
        self.networks = networks
        super().__init__(*args, directory=str(PAGE), **options)

    def translate_path(self, path: str) -> str:
        found = Path(super().translate_path(path))
        if found.is_relative_to(PAGE / NETWORKS):
            found = self.networks / found.relative_to(PAGE / NETWORKS)
        return str(found)

    def end_headers(self) -> None:
        # The names of assets change with their content, and networks change under the same address.
        kept = self.path.startswith("/assets/")
        self.send_header("Cache-Control", "max-age=31536000, immutable" if kept else "no-cache")
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        self.send_error(404)

    def log_message(self, *args: Any) -> None:
        """Print nothing for a request."""


def open_server(port: int, networks: Path | None = None) -> ThreadingHTTPServer:
    """Return a server of the page that listens on this machine only; ``serve_forever`` runs it.

    Args:
        port: The port, or 0 for a free one.
        networks: Folder that `write_networks` writes; by default that of the networks that ship with the page.

    Raises:
        RunError: The page is not built, or another program has the port.
    """
    shipped = PAGE / NETWORKS
    missing = next((path for path in (PAGE / "index.html", networks or shipped) if not path.exists()), None)
    if missing is not None:
        raise RunError(
            f"the explorer's page is not built, there is no {missing}; run `make page` in a clone of dynaconv, or "
            f"install a wheel of it."
        )
    try:
        return ThreadingHTTPServer((_HOST, port), partial(_Handler, networks or shipped))
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        reason = "another program uses it" if error.errno == errno.EADDRINUSE else "the system reserves it"
        raise RunError(f"port {port} cannot be used, {reason}; pass another --port, or 0 for a free one.") from error
