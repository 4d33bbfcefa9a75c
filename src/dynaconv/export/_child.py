"""Runs external code in a child process, so that a crash of that code raises an exception in this process."""

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
    """The child process ended before it answered."""


class Child:
    """A callable that runs in a child process.

    Arguments and results are pickled. The process starts with the construction of this object and ends with the object.

    Args:
        make: A module-level function that returns the callable. The child process loads only this function's module, so
            the imports of the module determine how long the start takes.
        args: Arguments of ``make``.

    Raises:
        ChildError: The process ended, for example by a crash; the message names the signal or the exit code.
        Exception: An exception that ``make`` raised.
    """

    def __init__(self, make: Callable[..., Callable[..., Any]], *args: Any) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # the finaliser closes it
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_MAIN)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,
        )
        weakref.finalize(self, _end, self._process, self._errors)
        self._request(inspect.getfile(make), make.__module__, make.__name__, args)

    def __call__(self, *args: Any) -> Any:
        """Call the callable in the child process.

        Raises:
            ChildError: The process ended, see above.
            Exception: An exception that the callable raised.
        """
        return self._request(*args)

    def _request(self, *arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(arguments, self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
            succeeded, answer = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            raise ChildError(self._exit_message()) from error
        if not succeeded:
            raise answer
        return answer

    def _exit_message(self) -> str:
        code = self._process.wait()
        if code >= 0:
            return f"the process that it ran in ended with exit code {code}{self._last_error_line()}."
        name = signal.Signals(-code).name
        if -code in _CRASHES:
            last_line = self._last_error_line() if -code == signal.SIGABRT else ""
            return (
                f"the process that it ran in crashed with {name}{last_line}; the fault is the runtime's, so try "
                f"another version of it or another format."
            )
        reason = ", which the system sends if memory runs out" if -code == signal.SIGKILL else ""
        return f"the process that it ran in was ended by {name}{reason}."

    def _last_error_line(self) -> str:
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        return f" ({lines[-1]})" if lines else ""


def _end(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    if process.poll() is None:
        # With the processes that it forked.
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    errors.close()
