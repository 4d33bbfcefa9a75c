"""The command line, ``dynaconv COMMAND``; `make_parser` has the commands.

Each command imports the heavy packages that it needs. An error that the user can correct is reported as one sentence on
standard error, with exit code 2. docs/command-line.md lists the exit codes.
"""

import atexit
import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Sequence

from dynaconv._version import __version__
from dynaconv.commands import (
    advise,
    analyze,
    convert,
    demo,
    env,
    eval,
    explore,
    export,
    models,
    predict,
    profile,
    shard,
    study,
    train,
)
from dynaconv.commands._shared import Parser, prepared_outputs
from dynaconv.errors import DynaconvError
from dynaconv.interrupts import Terminated, propagating_interrupts, terminating

# Import name of a package -> the extra that installs it.
_EXTRAS = {
    "timm": "models",
    "torchvision": "models",
    "safetensors": "models",
    "lightning": "train",
    "jsonargparse": "train",
    "torchmetrics": "train",
    "tensorboard": "train",
    "rich": "train",
    "jinja2": "train",
    "matplotlib": "train",
    "sklearn": "train",
    "scipy": "train",
    "filelock": "train",
    "PIL": "train",
    "webdataset": "shards",
    "datasets": "shards",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
    "openvino": "export",
    "nncf": "int8",
    "executorch": "executorch",
    "litert_torch": "litert",
    "ai_edge_litert": "litert",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments after the program's name; by default those of this process.

    Returns:
        The exit code: 0, 1 (something failed, or the disk is full), 2 (invalid arguments or inputs), 130
        (interrupted), 141 (the reader of the output closed the pipe, as ``| head`` does) or 143 (ended by SIGTERM; 129
        by SIGHUP).
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # An encoding such as ASCII lacks characters of the tables and of file names.
        sys.stdout.reconfigure(errors="replace")
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        with terminating(), propagating_interrupts():
            code = _run(given)
        # Flush here, so that a closed pipe raises BrokenPipeError now and not when the interpreter exits.
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _discard_output()
        return 141
    except KeyboardInterrupt as interrupt:
        # Another Ctrl+C while the interpreter exits would print tracebacks.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
        # The terminal may be closed.
        with contextlib.suppress(OSError):
            print(f"dynaconv: {_process_name()}{str(interrupt) or 'interrupted.'}", file=sys.stderr)
        return 128 + interrupt.number if isinstance(interrupt, Terminated) else 130
    except (DynaconvError, ModuleNotFoundError, OSError) as error:
        if "--debug" in given:
            raise
        message, code = _explain(error)
        if message is None:
            raise
        print(f"dynaconv: {_process_name()}{' '.join(message.split())}", file=sys.stderr)
        return code


def _process_name() -> str:
    """Return ``process <rank>: `` for a process of rank above 0, else "".

    An error that only one process meets, such as an unreadable file, is reported by that process alone.
    """
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or os.environ.get("LOCAL_RANK") or "0"
    return "" if rank == "0" else f"process {rank}: "


def _discard_output() -> None:
    """Redirect standard output to the null device, so that flushing it at exit raises no error."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


def _explain(error: Exception) -> tuple[str | None, int]:
    """Return the message for an error and its exit code. The message is None if the error is a bug in the program."""
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        extra = _EXTRAS.get(package)
        if extra is None:
            return None, 1
        # Commands that need `models` also need packages for data, images or tables; `train` includes both.
        extra = "train" if extra == "models" else extra
        return f'this command needs {package}, which is not installed; pip install "dynaconv[{extra}]".', 2
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        code = 2 if error.errno == errno.ENAMETOOLONG else 1
        return f"the system refused: {str(error.strerror or error).rstrip('.')}{where}.", code
    disk_full = any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
    return str(error), 1 if disk_full or not isinstance(error, DynaconvError) else error.exit_code


def _run(given: list[str]) -> int:
    parser = make_parser()
    if not given:
        parser.print_help(sys.stderr)
        return 2
    if given[0].startswith("-") and given[0] not in parser._option_string_actions:
        parser.refuse(given[0])
    arguments, rest = parser.parse_known_args(given)
    if rest and not arguments.passes_on:
        arguments.parser.refuse(rest[0])
    with prepared_outputs(arguments):
        return arguments.run(arguments, rest) or 0


def make_parser() -> Parser:
    """Return the parser of all commands; a test pins its flags."""
    parser = Parser(
        prog="dynaconv",
        description="Convolutional networks whose kernels depend on the input.",
        allow_abbrev=False,
    )
    version = f"dynaconv {__version__}"
    parser.add_argument("--version", action="version", version=version, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for command in (
        demo,
        train,
        study,
        eval,
        predict,
        profile,
        analyze,
        explore,
        convert,
        export,
        shard,
        advise,
        models,
        env,
    ):
        command.add(commands)
    return parser
