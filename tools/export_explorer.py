"""Exports the networks of docs/results/weights/ into the explorer's built page.

python tools/export_explorer.py
"""

import shutil
from pathlib import Path

from dynaconv.explore.networks import write_networks
from dynaconv.explore.server import NETWORKS, PAGE

WEIGHTS = Path(__file__).parents[1] / "docs" / "results" / "weights"
NAMES = ("static", "dcd", "dyconv", "odconv", "condconv")


def main() -> None:
    """Replace the networks beside the page."""
    if not (PAGE / "index.html").is_file():
        raise SystemExit(
            f"there is no page in {PAGE}; run `npm ci && npm run build` in explorer/ first, or `make page`."
        )
    folder = PAGE / NETWORKS
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_networks([WEIGHTS / f"{name}.safetensors" for name in NAMES], folder, say=print)


if __name__ == "__main__":
    main()
