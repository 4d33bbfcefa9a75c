"""``python -m dynaconv.native.build``: compile the kernels before their first use."""

import argparse
import sys
from collections.abc import Sequence

from dynaconv.native.extension import extension
from dynaconv.native.toolchain import BuildError, build


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the library and print its path."""
    parser = argparse.ArgumentParser(prog="python -m dynaconv.native.build", description="Compile the native kernels.")
    parser.add_argument("--verbose", action="store_true", help="print the compiler's commands")
    parser.add_argument(
        "--runtime",
        choices=("torch", "onnxruntime", "openvino"),
        default="torch",
        help="runtime that loads the kernels; default: torch",
    )
    options = parser.parse_args(arguments)
    try:
        if options.runtime == "torch":
            print(build(verbose=options.verbose))
        else:
            print(extension(options.runtime, verbose=options.verbose))
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
