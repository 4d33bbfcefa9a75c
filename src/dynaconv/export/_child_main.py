"""The child process of `dynaconv.export._child.Child`. It runs as a script, so that it does not import the package."""

import importlib.util
import os
import pickle
import signal
import sys
from functools import partial
from typing import Any, BinaryIO


def _make_callable(file: str, module: str, name: str, args: tuple[Any, ...]) -> Any:
    """Load a module from its file, call one of its functions and return the result.

    Importing the module as part of its package would import torch too.
    """
    spec = importlib.util.spec_from_file_location(module, file)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return getattr(loaded, name)(*args)


def _picklable(error: Exception) -> Exception:
    """Return the error itself if it can be pickled, otherwise a RuntimeError with its message."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(str(error) or type(error).__name__)
    return error


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until the input ends: the first creates the callable, all others call it."""
    function: Any = None
    while True:
        try:
            request = pickle.load(requests)
        except EOFError:
            return
        answer: tuple[bool, Any]
        try:
            if function is None:
                function = _make_callable(*request)
                answer = True, None
            else:
                answer = True, function(*request)
        except Exception as error:
            answer = False, _picklable(error)
        pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _main() -> None:
    # The parent process ends this one, also after Ctrl+C.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Discard the output that libraries print; answers use a duplicate of standard output.
    answers = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    # OpenVINO forks to send its statistics. Such a process may outlive this one, and the parent waits for the pipes.
    for pipe in (0, answers.fileno()):
        os.register_at_fork(after_in_child=partial(os.dup2, null, pipe))
    _serve(sys.stdin.buffer, answers)
    os._exit(0)


if __name__ == "__main__":
    _main()
