"""Foreign code in a process of its own, so that a crash of it is an exception here."""

import inspect
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

_MAIN = Path(__file__).with_name("_child_main.py")
_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}


class ChildError(RuntimeError):
    """The process ended before it answered."""


class Child:
    """A callable in a process of its own.

    Arguments and results are pickled. The process is started at once and ends with this object.

    Args:
        make: A function of a module, which gives the callable. In the process that module is loaded alone: it decides
            by what it imports how long the start takes.
        args: Its arguments.

    Raises:
        ChildError: The process was ended, by a crash for example; the message names the signal.
        Exception: What ``make`` raises.
    """

    def __init__(self, make: Callable[..., Callable[..., Any]], *args: Any) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # the finaliser closes it
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_MAIN)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        weakref.finalize(self, _end, self._process, self._errors)
        self._ask(inspect.getfile(make), make.__module__, make.__name__, args)

    def __call__(self, *args: Any) -> Any:
        """Call the callable.

        Raises:
            ChildError: As for the class.
            Exception: What it raises.
        """
        return self._ask(*args)

    def _ask(self, *request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(request, self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
            succeeded, answer = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            raise ChildError(self._how_it_ended()) from error
        if not succeeded:
            raise answer
        return answer

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        if code >= 0:
            return f"the process that it ran in ended with exit code {code}{self._last_words()}."
        name = signal.Signals(-code).name
        if -code in _CRASHES:
            said = self._last_words() if -code == signal.SIGABRT else ""
            return (
                f"the process that it ran in crashed with {name}{said}; the fault is the runtime's, so try another "
                f"version of it or another format."
            )
        reason = ", as the system does where memory runs out" if -code == signal.SIGKILL else ""
        return f"the process that it ran in was ended by {name}{reason}."

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        return f" ({lines[-1]})" if lines else ""


def _end(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    process.kill()
    process.communicate()
    errors.close()
