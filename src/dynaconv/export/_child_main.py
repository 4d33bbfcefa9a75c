"""The other end of `dynaconv.export._child.Child`; run by its file, so that it imports only what it needs."""

import importlib.util
import os
import pickle
import signal
import sys
from typing import Any, BinaryIO


def _made(file: str, module: str, name: str, args: tuple[Any, ...]) -> Any:
    """What a function gives, its module loaded from its file: that of its package would load torch with it."""
    spec = importlib.util.spec_from_file_location(module, file)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return getattr(loaded, name)(*args)


def _portable(error: Exception) -> Exception:
    """The error itself, where it can be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(str(error) or type(error).__name__)
    return error


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer one request after another: the first makes what all others call."""
    made: Any = None
    while True:
        try:
            request = pickle.load(requests)
        except EOFError:
            return
        answer: tuple[bool, Any]
        try:
            if made is None:
                made = _made(*request)
                answer = True, None
            else:
                answer = True, made(*request)
        except Exception as error:
            answer = False, _portable(error)
        pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _main() -> None:
    # Whoever started this ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What libraries print goes nowhere.
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    _serve(sys.stdin.buffer, answers)
    os._exit(0)


if __name__ == "__main__":
    _main()
