"""Runs a program of the project in a process of its own (mimpala/worker.py) and returns its outcome.

So a caller needs no main guard and may itself be a child process or a notebook; its signal handlers, threads and modules stay as they
are; and no process of the run imports the caller's script.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from typing import Any

from mimpala.location import child_environment, use_own_packages

PRETEND_TERMINAL = ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
"""Environment variables by which Jupyter claims that a pipe is a terminal. A live display would fill a notebook with control codes."""


def run_program(name: str, request: dict[str, Any]) -> dict[str, Any]:
    """The outcome of the program `name` of mimpala/worker.py for `request`, which is JSON data.

    Raises InputError for a mistake in the request, RunError if the run fails, and KeyboardInterrupt, after the run is saved, if
    this process was interrupted.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise refuse(
            f"mimpala.{name} was called while a child process imports your script: put the call under `if __name__ == '__main__':`."
        )
    # A file, not a pipe: an outcome of any length can be written before it is read.
    with tempfile.TemporaryFile() as outcome:
        process = _start(name, request, outcome.fileno())
        interrupted = _follow(process)
        outcome.seek(0)
        written = outcome.read()
    if interrupted:
        raise KeyboardInterrupt
    content: dict[str, Any] = json.loads(written) if written else {"failed": _describe_end(process.returncode)}
    if "refused" in content:
        raise refuse(content["refused"])
    if "failed" in content:
        raise _errors().RunError(content["failed"])
    return content


def _start(name: str, request: dict[str, Any], descriptor: int) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-P",
        "-m",
        "mimpala.worker",
        name,
        str(descriptor),
        str(os.getpid()),
        json.dumps(request),
    ]
    shown: dict[str, Any] = {}
    environment = child_environment(sys.path)
    if not _is_standard(sys.stdout, 1):
        # A notebook or a test has replaced sys.stdout, which a child process cannot write to.
        shown = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        for name in PRETEND_TERMINAL:
            environment.pop(name, None)
    return subprocess.Popen(
        command,
        pass_fds=[descriptor],
        stdin=subprocess.DEVNULL,
        env=environment,
        text=True,
        errors="replace",
        # Ctrl-C in a terminal reaches this process alone, which then interrupts the run once.
        process_group=0,
        **shown,
    )


def _is_standard(stream: Any, descriptor: int) -> bool:
    try:
        return bool(stream.fileno() == descriptor)
    except (AttributeError, OSError, ValueError):
        return False


def _follow(process: subprocess.Popen[str]) -> bool:
    """Waits for the end of the process, and prints what it writes to our pipe. Passes Ctrl-C on, and returns whether it came."""
    interrupted = False
    while True:
        try:
            for line in process.stdout or ():
                print(line, end="", flush=True)
            process.wait()
            return interrupted
        except KeyboardInterrupt:
            interrupted = True
            process.send_signal(signal.SIGINT)


def _describe_end(code: int) -> str:
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"the process of the run ended without an outcome ({how}); what it wrote above may state the reason"


def refuse(sentence: str) -> Exception:
    """The InputError with this sentence."""
    error: Exception = _errors().InputError(sentence)
    return error


def _errors() -> Any:
    use_own_packages("mimpala", ["system"])
    from system import errors

    return errors
